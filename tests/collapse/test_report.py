"""The contents of the report, for run folders in various states."""

import base64
import io
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from synthetic_run import EVENTS, GOOD, LAYERS, ONSET, STEPS, collapsed_run, samples, write_rows

from biggan import cli
from biggan.errors import InputError
from biggan.report.charts import LEFT, RIGHT
from biggan.report.report_page import write_report


@pytest.fixture
def run(tmp_path):
    return collapsed_run(tmp_path / "run")


def page_of(run):
    """Return the page, parsed as XML: the parser rejects text that is not escaped."""
    return ElementTree.fromstring(write_report(run).read_text().removeprefix("<!doctype html>"))


def section(page, name):
    return page.find(f".//section[@id='{name}']")


def text_of(element):
    return " ".join("".join(element.itertext()).split())


def titles(element, path="."):
    """Return the h3 of every figure."""
    return [h3.text for h3 in element.findall(f"{path}//h3")]


def legend(page, section_name, title):
    """Return the legend of one chart: name -> last value."""
    figures = {figure.find(".//h3").text: figure for figure in section(page, section_name).iter("figure")}
    entries = figures[title].findall(".//p[@class='legend']/span")
    return {text_of(entry).rsplit(" ", 1)[0]: float(entry.find("b").text) for entry in entries}


def alarm_marks(page, name="marks-full"):
    """Return (level, x, tooltip) of every alarm."""
    alarms = [g for g in page.findall(f".//g[@id='{name}']/g") if g.get("class").startswith("alarm ")]
    return [(g.get("class").split()[1], float(g.find("line").get("x1")), g.find("title").text) for g in alarms]


def x_of(step, first=0, last=STEPS):
    return pytest.approx(LEFT + (step - first) / (last - first) * (RIGHT - LEFT), abs=0.06)  # the page has one decimal


def decoded(image):
    return Image.open(io.BytesIO(base64.b64decode(image.get("src").removeprefix("data:image/jpeg;base64,"))))


def steps_of(element):
    return [int(image.get("alt").rsplit(" ", 1)[1]) for image in element.iter("img")]


def test_verdict_section_has_reasons_and_facts(run):
    verdict = section(page_of(run), "verdict")
    assert text_of(verdict.find("h2")) == "collapsing since step 3,100"
    assert [li.text for li in verdict.findall("ul/li")] == EVENTS[-1]["reasons"]  # "<b>" as text
    facts = {dl.find("dt").text: dl.find("dd").text for dl in verdict.findall(".//dl/div")}
    assert facts == {
        "estimated onset": "step 2,900",
        "signals": "spread, spectrum",
        "layers": "D.linear",
        "action": "halted",
        "good checkpoint": "step 2,800",
    }
    assert [row.find("td").text for row in verdict.findall(".//tbody/tr")] == ["3,100", "2,990", "2,000", "1,950"]


def test_layers_are_in_order_of_alarm_and_recent_growth(run):
    # D.linear is named by the alarm; conv1 then grew fivefold, G.linear twofold, the others at their usual rate
    page = page_of(run)
    assert titles(section(page, "layers"))[:3] == ["D.linear", "D.blocks.0.conv1", "G.linear"]
    assert set(titles(section(page, "layers"))) == set(LAYERS)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # The page prints 3 digits.
    expected = {f"σ{'₀₁₂'[k]}": pytest.approx(rows[-1][f"sigma/D.linear/{k}"], rel=5e-3) for k in range(3)}
    assert legend(page, "layers", "D.linear") == expected


def test_alarms_and_checkpoints_are_drawn_at_their_steps(run):
    page = page_of(run)
    marks = alarm_marks(page)
    assert [(level, x) for level, x, _ in marks] == [
        ("collapsing", x_of(1950)),
        ("warning", x_of(2990)),
        ("collapsing", x_of(3100)),
    ]
    assert marks[0][2] == "step 1,950: collapsing\ndiversity/generator fell from 0.5 to 0.2\nrolled back"
    onsets = [float(line.get("x1")) for line in page.findall(".//g[@id='marks-full']/line")]
    assert onsets == [x_of(1900), x_of(2910), x_of(ONSET)]
    found = {}
    for path in page.findall(".//g[@id='marks-full']/path"):
        kind = path.get("class").split()[1]
        left = float(re.match(r"M([\d.]+)", path.get("d"))[1])
        found.setdefault(kind, []).append(left + 5 * (kind == "good"))  # the disc's path starts at its left edge
    assert found == {
        "kept": [x_of(400), x_of(1600), x_of(3000), x_of(STEPS)],
        "pinned": [x_of(2400)],
        "good": [x_of(GOOD)],
    }
    svgs = section(page, "layers").findall(".//svg") + section(page, "curves").findall(".//svg")
    assert {svg.find("use").get("href") for svg in svgs} == {"#marks-full"}


def test_the_alarm_view_covers_the_margin_around_the_alarm(run):
    # 2 x (3100 - 2900) is less than the minimum margin of 500
    marks = alarm_marks(page_of(run), "marks-alarm")
    assert [(level, x) for level, x, _ in marks] == [("warning", x_of(2990, 2400)), ("collapsing", x_of(3100, 2400))]


def test_curves_show_last_values_and_earlier_attempts(run):
    page = page_of(run)
    charts = titles(section(page, "curves"))
    assert charts[0] == "Losses"
    assert "Non-finite updates since the previous row" not in charts  # all counts are 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    keys = {"D real": "d_loss_real", "D fake": "d_loss_fake", "G": "g_loss"}
    # The page prints 3 digits.
    assert legend(page, "curves", "Losses") == {n: pytest.approx(last[k], rel=6e-3) for n, k in keys.items()}
    earlier = section(page, "curves").find(".//g[@class='earlier s0']/polyline").get("points").split()
    xs = [float(point.split(",")[0]) for point in earlier]
    assert (min(xs), max(xs)) == (x_of(1610), x_of(1950))


def test_last_good_and_first_bad_grid_are_side_by_side(run):
    pair = section(page_of(run), "pair")
    assert titles(pair) == ["last good", "first bad"]
    assert steps_of(pair) == [2800, 3100]
    for image in pair.iter("img"):
        step = int(image.get("alt").rsplit(" ", 1)[1])
        original = np.asarray(Image.open(run / "samples" / f"step_{step:08d}.png"), np.float32)
        assert (
            np.abs(np.asarray(decoded(image), np.float32) - original).mean() < 8
        )  # JPEG error; other grids differ by more than 20


def test_without_a_grid_after_the_alarm_the_bad_grid_is_the_last_since_the_onset(run):
    (run / "samples" / "step_00003100.png").unlink()
    assert steps_of(section(page_of(run), "pair")) == [2800, 3000]


def test_after_a_rollback_the_bad_grid_is_of_the_abandoned_trajectory(run):
    rolled_back = EVENTS[-1] | {"action": "rolled back"}
    (run / "collapse" / "events.jsonl").write_text(json.dumps(rolled_back) + "\n")
    attempt = run / "collapse" / f"attempt_{len(list((run / 'collapse').glob('attempt_*.jsonl'))):02d}"
    attempt.mkdir()
    for name in ("step_00003000.png", "step_00003100.png"):
        (run / "samples" / name).rename(attempt / name)
    assert steps_of(section(page_of(run), "pair")) == [2800, 3100]
    for file in attempt.iterdir():
        file.unlink()
    assert "no sample grid since the onset" in text_of(section(page_of(run), "pair"))


def test_checkpoint_table_commands_and_lineage(run):
    page = page_of(run)
    rows = [[text_of(cell) for cell in row] for row in section(page, "checkpoints").findall(".//tbody/tr")]
    assert rows[0] == ["3,100", "3.0 MiB", "incomplete: no manifest.json", ""]
    assert rows[2] == ["2,800", "3.0 MiB", "complete, last good", "the last good one"]
    assert rows[3] == ["2,400", "3.0 MiB", "complete", "before the collapse suspected from step 2900 on"]
    assert [pre.text for pre in section(page, "commands").iter("pre")] == [
        f"biggan train --resume {run}@good --as {run}-child optimizer.g_lr=x0.5",
        f"biggan probe {run}@good --steps 300",
        f"biggan train {run}/config.yaml",
    ]
    assert text_of(section(page, "lineage")).endswith(
        "runs/first & best, from its step 0. optimizer.g_lr: 0.0008 → 0.0004"
    )


def test_commands_are_quoted_for_the_shell(tmp_path):
    run = collapsed_run(tmp_path / "it's <my> run")
    child = section(page_of(run), "commands").find(".//pre").text
    out = subprocess.run(["bash", "-c", f"printf '%s\\n' {child}"], capture_output=True, text=True, check=True).stdout
    expected = ["biggan", "train", "--resume", f"{run}@good", "--as", f"{run}-child", "optimizer.g_lr=x0.5"]
    assert out.splitlines() == expected


def test_partially_written_files_of_a_live_run_are_skipped(run):
    complete = text_of(section(page_of(run), "curves"))
    for name in ("metrics.jsonl", "collapse/events.jsonl", "collapse/attempt_01.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 99999, "g_loss": 0.')
    for name in ("checkpoints/pinned.json", "lineage.json"):
        (run / name).write_text((run / name).read_text()[:-5])
    truncated = run / "samples" / "step_00003100.png"
    truncated.write_bytes(truncated.read_bytes()[:-2000])
    (run / "samples" / "step_00002800.png").write_bytes(b"")
    zeroed = run / "samples" / "step_00002500.png"  # blocks that a crash kept from reaching the disk
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)).save(zeroed)
    start = zeroed.read_bytes()[: zeroed.read_bytes().rindex(b"IDAT") - 4]
    zeroed.write_bytes(start.ljust(300_000, b"\0"))
    page = page_of(run)
    assert text_of(section(page, "curves")) == complete
    assert text_of(section(page, "verdict").find("h2")) == "collapsing since step 3,100"
    assert steps_of(section(page, "samples"))[-2:] == [2000, 2300]
    assert "step 2,800" in text_of(page.find(".//header"))  # the good step of the event


def test_non_finite_values_are_marked_and_interrupt_the_curve(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3110, "g_loss": NaN, "d_loss_real": Infinity, "non_finite_steps": 3}\n')
        file.write('{"step": 3120, "g_loss": 1.0}\n')
    curves = section(page_of(run), "curves")
    assert [t.text for t in curves.findall(".//path[@class='non-finite']/title")] == ["step 3,110: not finite"] * 2
    g_loss = curves.findall("./div/figure[1]//g[@class='s2']/polyline")
    assert [len(set(line.get("points").split())) for line in g_loss] == [STEPS // 10, 1]  # the second piece is a dot
    assert "Non-finite updates since the previous row" in titles(curves)
    assert not [p for p in curves.iter("polyline") if re.search("nan|inf", p.get("points"))]


def test_a_run_folder_with_few_files_gives_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text("run: {dir: x}\n")
    page = page_of(tmp_path)
    assert text_of(section(page, "verdict")).startswith("no verdict")
    assert [s.get("id") for s in page.iter("section")] == ["verdict", "commands", "config"]
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "metrics.jsonl").write_text('{"step": 7, "g_loss": 0.5}\n')
    page = page_of(tmp_path)
    # The page prints 3 digits.
    assert legend(page, "curves", "Losses") == {"G": 0.5}
    assert [s.get("id") for s in page.iter("section")] == ["verdict", "commands", "curves"]


def test_the_page_is_small_and_self_contained(run):
    layers = tuple(f"{net}.blocks.{b}.conv{c}" for net in "GD" for b in range(25) for c in range(3))
    write_rows(run / "metrics.jsonl", range(50, 60_001, 50), layers=layers, onset=59_000)
    samples(run / "samples", range(5000, 60_001, 1000))
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 3000, 3), np.uint8))
    wide.save(run / "samples" / "step_00060000.png")
    page = write_report(run).read_text()
    assert len(page) < 15e6
    root = ElementTree.fromstring(page.removeprefix("<!doctype html>"))
    assert len(list(section(root, "layers").iter("figure"))) == 150
    assert [len(p.get("points").split()) for p in root.iter("polyline") if len(p.get("points").split()) > 1000] == []
    grids = steps_of(section(root, "samples"))
    assert (len(grids), grids[-1]) == (12, 60_000)
    assert all(decoded(image).width <= 1000 and decoded(image).height <= 1400 for image in root.iter("img"))
    links = [e.get(key) for e in root.iter() for key in ("src", "href") if e.get(key)]
    assert {link[:6] for link in links} == {"data:i", "data:,", "#marks"}
    assert "http" not in page
    assert "<script" not in page


def test_the_report_does_not_import_torch_mlflow_or_pydantic():
    code = (
        "import sys, biggan.report.report_page; print([m for m in ('torch', 'mlflow', 'pydantic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_folder_that_is_not_a_run_folder_is_refused(run, tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match=r"samples: .*config\.yaml.*run\.dir"):
        write_report(run / "samples")
    assert not (run / "samples" / "collapse").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["biggan", "report", str(run), "--out", str(tmp_path / "file" / "a.html")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert re.fullmatch(r"biggan: .*a\.html: .*\n", capsys.readouterr().err)
    monkeypatch.setattr(sys, "argv", ["biggan", "report", str(run), "--out", str(tmp_path / "new" / "a.html")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert capsys.readouterr().out == f"{tmp_path}/new/a.html\n"
