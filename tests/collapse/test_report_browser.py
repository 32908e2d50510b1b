"""The report in a real browser, at desktop and at phone width."""

import json
import re
import shutil
import subprocess

import pytest
from PIL import Image
from synthetic_run import EVENTS, collapsed_run

from biggan.report.report_page import write_report

pytestmark = pytest.mark.deploy

# An iframe, because a window is at least 500 px wide. Elements that scroll on their own do not widen the page.
FRAME = """<iframe src="{page}" style="width: {width}px; height: 2000px; border: 0"></iframe><script>
onload = () => {{
    const page = frames[0], root = page.document.documentElement;
    for (const details of root.querySelectorAll("details")) details.open = true;
    const beyond = [...root.querySelectorAll("header *, main *")].filter(
        (e) => e.getBoundingClientRect().right > page.innerWidth + 1 && !e.closest(".scroll, pre, svg"));
    document.title = [page.innerWidth, root.scrollWidth, ...beyond.map((e) => e.tagName + "." + e.className)];
}};</script>"""


def chromium(*arguments: str, folder) -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    assert browser, "no chromium: run `apt-get install chromium` (tests/deploy/install.sh does so as root)"
    disabled = ("gpu", "quic", "background-networking", "component-update", "sync")
    command = [browser, "--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}"]
    command += [f"--disable-{feature}" for feature in disabled]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def page(tmp_path):
    """Report of a run with very long names."""
    run = collapsed_run(tmp_path / ("run_" + "x" * 150))
    long = EVENTS[-1] | {"layers": ["D." + "blocks." * 40], "reasons": ["/" + "y" * 300], "action": "z" * 120}
    with (run / "collapse" / "events.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    return write_report(run)


@pytest.mark.parametrize("width", [1400, 390])
def test_no_element_is_wider_than_the_window(page, width, tmp_path):
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri(), width=width))
    dom = chromium(
        "--dump-dom", "--allow-file-access-from-files", "--window-size=1500,2100", frame.as_uri(), folder=tmp_path
    )
    assert re.search(r"<title>(.*?)</title>", dom)[1] == f"{width},{width}"

    screenshot = tmp_path / "shot.png"
    chromium(f"--screenshot={screenshot}", f"--window-size={width},2000", page.as_uri(), folder=tmp_path)
    shot = Image.open(screenshot).convert("RGB")
    assert shot.size == (width, 2000)
    # The page is neither blank nor unstyled: colours of the style sheet occur in the screenshot.
    colours = {colour for _, colour in shot.getcolors(2**24)}
    assert {(0xF6, 0xF7, 0xF8), (0xB3, 0x26, 0x1E)} <= colours
