"""The report of a run as one self-contained HTML page: its history, its verdicts, and commands to continue it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from biggan.files import write_atomically
from biggan.report.axes import Kind, number
from biggan.report.charts import Chart, Line, draw, draw_marks
from biggan.report.curves import CurveView, rank_layers
from biggan.report.run_record import SEVERE, Record, read_record
from biggan.report.sample_grids import good_and_bad, grids_over_time

LAYERS_SHOWN = 24
"""Number of layers shown; the others are collapsed below them."""
ALARM_LAYERS_SHOWN = 6
"""Number of layers in the view of the latest alarm."""
EVENTS_SHOWN = 100
"""Maximum number of verdict changes in the table: the newest ones."""

CURVES: tuple[tuple[str, Kind, tuple[Line, ...]], ...] = (
    (
        "Losses",
        Kind.SIGNED_LOG,
        (Line("d_loss_real", "D real"), Line("d_loss_fake", "D fake"), Line("g_loss", "G"), Line("d_loss", "D")),
    ),
    ("D's logits, mean", Kind.SIGNED_LOG, (Line("d_logit_real", "real"), Line("d_logit_fake", "fake"))),
    (
        "D's logits, standard deviation over the batch",
        Kind.LOG,
        (Line("d_logit_real_spread", "real"), Line("d_logit_fake_spread", "fake")),
    ),
    (
        "D's accuracy on the batch",
        Kind.FRACTION,
        (
            Line("d_accuracy_real", "real, above the loss's level"),
            Line("d_accuracy_fake", "fake, below it"),
            Line("d_accuracy_pairs", "pairs with D(real) > D(fake)"),
        ),
    ),
    ("Gradient norms", Kind.LOG, (Line("g_grad_norm", "G"), Line("d_grad_norm", "D"))),
    (
        "Distance within classes, relative to real images",
        Kind.LINEAR,
        (Line("diversity/generator", "generator"), Line("diversity/ema", "EMA generator")),
    ),
    (
        "Near-duplicates, fraction of the batch",
        Kind.FRACTION,
        (Line("duplicates/generator", "generator"), Line("duplicates/ema", "EMA generator")),
    ),
    (
        "D's accuracy on real images",
        Kind.FRACTION,
        (Line("d_accuracy_train", "training"), Line("d_accuracy_held_out", "held out")),
    ),
    (
        "Gradient signals",
        Kind.LOG,
        (Line("d_gradient", "D's gradient at samples"), Line("g_steepness", "G's steepness")),
    ),
    ("Non-finite updates since the previous row", Kind.LINEAR, (Line("non_finite_steps", "steps"),)),
)


@dataclass(frozen=True)
class Command:
    """Command line and its purpose."""

    purpose: str
    line: str


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page of a run atomically to `out` (default `run_dir`/collapse/report.html) and return its path.

    Raises InputError if `run_dir` is not a run folder, and OSError if the page cannot be written.
    """
    page = render(read_record(run_dir))
    path = run_dir / "collapse" / "report.html" if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def render(record: Record) -> str:
    """Return the page as HTML."""
    templates = Environment(
        loader=PackageLoader("biggan.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["size"] = format_size
    layers = layer_charts(record.full_view, record, "marks-full")
    good, bad = good_and_bad(record)
    return templates.get_template("report.html").render(
        record=record,
        name=record.run_dir.resolve().name,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        verdict=record.events[-1] if record.events else None,
        facts=facts(record),
        commands=commands(record),
        good=good,
        bad=bad,
        grids=grids_over_time(record),
        marks=[
            draw_marks(name, view.span, record.events, record.checkpoints, record.good_step)
            for name, view in (("marks-full", record.full_view), ("marks-alarm", record.alarm_view))
            if view is not None
        ],
        curves=curve_charts(record.full_view, "marks-full"),
        alarm_curves=[] if record.alarm_view is None else curve_charts(record.alarm_view, "marks-alarm"),
        alarm_layers=[]
        if record.alarm_view is None
        else layer_charts(record.alarm_view, record, "marks-alarm")[:ALARM_LAYERS_SHOWN],
        layers=layers[:LAYERS_SHOWN],
        more_layers=layers[LAYERS_SHOWN:],
        events=record.events[: -EVENTS_SHOWN - 1 : -1],
    )


def curve_charts(view: CurveView, marks: str) -> list[Chart]:
    """Return the charts of losses, logits, accuracies, gradients and diversity that the view has values for."""
    charts = (draw(view, title, kind, lines, marks) for title, kind, lines in CURVES if _worth_drawing(view, lines))
    return [chart for chart in charts if chart is not None]


def _worth_drawing(view: CurveView, lines: Iterable[Line]) -> bool:
    """Return False for a count that is 0 at every step."""
    counts = [curve for line in lines if line.key == "non_finite_steps" and (curve := view.now.get(line.key))]
    return all(any(value for _, value in curve.points()) for curve in counts)


def layer_charts(view: CurveView, record: Record, marks: str) -> list[Chart]:
    """Return a chart of sigma_0..2 per layer: layers of the latest alarm first, then by recent growth of sigma_0."""
    alarmed = record.alarm.layers if record.alarm is not None else ()
    charts = []
    for layer, growth in rank_layers(view.now, alarmed):
        lines = [Line(f"sigma/{layer}/{k}", f"σ{'₀₁₂'[k]}", with_attempts=k == 0) for k in range(3)]
        note = ("named by the alarm; " if layer in alarmed else "") + f"recent growth of σ₀: × {number(growth)}"
        charts.append(draw(view, layer, Kind.LOG, lines, marks, note))
    return [chart for chart in charts if chart is not None]


def facts(record: Record) -> list[tuple[str, str]]:
    """Return names and values, with units, that describe the run and its progress."""
    steps = _setting(record, "training", "steps")
    entries = [("step", f"{record.step:,}" + (f" of {steps:,}" if isinstance(steps, int) else ""))]
    row = record.last_row
    if "images_seen" in row:
        entries.append(("images seen", f"{row['images_seen']:,}"))
    if "images_per_second" in row:
        entries.append(("speed", f"{number(row['images_per_second'])} images/s"))
    if record.attempts:
        entries.append(("rollbacks", str(record.attempts)))
    if record.good_step is not None:
        entries.append(("last good checkpoint", f"step {record.good_step:,}"))
    return entries


def commands(record: Record) -> list[Command]:
    """Return commands to continue, the likeliest first: the same run, a child run, the paper's experiments."""
    run = os.path.normpath(record.run_dir)
    resume = Command(
        "resume this run unchanged, from its newest checkpoint", f"biggan train {shlex.quote(run + '/config.yaml')}"
    )
    complete = [c.step for c in record.checkpoints if c.has_manifest]
    if record.good_step is None and not complete:
        return [resume]
    start = shlex.quote(f"{run}@{'good' if record.good_step is not None else complete[-1]}")
    where = "the last good checkpoint" if record.good_step is not None else "the newest checkpoint"
    child = f"biggan train --resume {start} --as {shlex.quote(run + '-child')} optimizer.g_lr=x0.5"
    from_there = [
        Command(f"start a child run from {where}, with half of G's learning rate", child),
        Command(f"run the paper's experiments from {where}", f"biggan probe {start} --steps 300"),
    ]
    collapsed = bool(record.events) and record.events[-1].level in SEVERE
    return [*from_there, resume] if collapsed else [resume, *from_there]


def _setting(record: Record, section: str, key: str) -> object:
    values = record.config.get(section)
    return values.get(key) if isinstance(values, dict) else None


def format_size(size_bytes: int) -> str:
    """Format a size in bytes as text, for example "3.0 MiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes} B"
