"""The report in a real browser, at desktop and at telephone width."""

import json
import re
import shutil
import subprocess

import pytest
from PIL import Image
from synthetic_run import EVENTS, collapsed_run

from biggan.report.report_page import write_report

# In a frame, because a window is at least 500 px wide. What may scroll within itself does not widen the page.
FRAME = """<iframe src="{page}" style="width: {width}px; height: 2000px; border: 0"></iframe><script>
onload = () => {{
    const page = frames[0], root = page.document.documentElement;
    for (const folded of root.querySelectorAll("details")) folded.open = true;
    const beyond = [...root.querySelectorAll("header *, main *")].filter(
        (e) => e.getBoundingClientRect().right > page.innerWidth + 1 && !e.closest(".scroll, pre, svg"));
    document.title = [page.innerWidth, root.scrollWidth, ...beyond.map((e) => e.tagName + "." + e.className)];
}};</script>"""


def chromium(*arguments: str, folder) -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    assert found, "no chromium: `apt-get install chromium` (tests/install.sh does, as root)"
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    command = [found, "--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}"]
    command += [f"--disable-{what}" for what in quiet]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def page(tmp_path):
    """Of a run whose names are as long as names get."""
    run = collapsed_run(tmp_path / ("run_" + "x" * 150))
    long = EVENTS[-1] | {"layers": ["D." + "blocks." * 40], "reasons": ["/" + "y" * 300], "action": "z" * 120}
    with (run / "collapse" / "events.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    return write_report(run)


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_wider_than_the_window(page, width, tmp_path):
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri(), width=width))
    dom = chromium(
        "--dump-dom", "--allow-file-access-from-files", "--window-size=1500,2100", frame.as_uri(), folder=tmp_path
    )
    assert re.search(r"<title>(.*?)</title>", dom)[1] == f"{width},{width}"

    picture = tmp_path / "shot.png"
    chromium(f"--screenshot={picture}", f"--window-size={width},2000", page.as_uri(), folder=tmp_path)
    shot = Image.open(picture).convert("RGB")
    assert shot.size == (width, 2000)
    # Drawn, not blank or unstyled: curves in the colours of the style sheet, somewhere on the page.
    colours = {colour for _, colour in shot.getcolors(2**24)}
    assert {(0xF6, 0xF7, 0xF8), (0xB3, 0x26, 0x1E)} <= colours
