"""`biggan report`: what happened to a run and how to go on, as one HTML page that needs nothing else."""

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
from biggan.report.charts import Chart, Line, draw, marks_of
from biggan.report.curves import View, rank_layers
from biggan.report.run_record import SEVERE, Record, read_record
from biggan.report.sample_grids import good_and_bad, grids_along_time

LAYERS_SHOWN = 24
"""Layers on the page; the others are folded away below them."""
LAYERS_NEAR = 6
"""Layers in the closer view of the latest alarm."""
EVENTS_SHOWN = 100
"""Changes of verdict in the table: the newest."""

CURVES: tuple[tuple[str, Kind, tuple[Line, ...]], ...] = (
    ("Losses", Kind.SIGNED_LOG, (Line("d_loss_real", "D real"), Line("d_loss_fake", "D fake"), Line("g_loss", "G"))),
    ("D's logits, mean", Kind.SIGNED_LOG, (Line("d_logit_real", "real"), Line("d_logit_fake", "fake"))),
    (
        "D's logits, standard deviation over the batch",
        Kind.LOG,
        (Line("d_logit_real_spread", "real"), Line("d_logit_fake_spread", "fake")),
    ),
    (
        "D right on the batch, share",
        Kind.SHARE,
        (Line("d_accuracy_real", "real, logit > 0"), Line("d_accuracy_fake", "fake, logit < 0")),
    ),
    ("Gradient norms", Kind.LOG, (Line("g_grad_norm", "G"), Line("d_grad_norm", "D"))),
    (
        "Distance within classes, over that of real images",
        Kind.LINEAR,
        (Line("diversity/generator", "generator"), Line("diversity/ema", "its average (EMA)")),
    ),
    (
        "Near-duplicates, share of the batch",
        Kind.SHARE,
        (Line("duplicates/generator", "generator"), Line("duplicates/ema", "its average (EMA)")),
    ),
    (
        "D right on real images, share",
        Kind.SHARE,
        (Line("d_accuracy_train", "trained on"), Line("d_accuracy_held_out", "held out")),
    ),
    (
        "Gradient signals",
        Kind.LOG,
        (Line("d_gradient", "D's gradient at the samples"), Line("g_steepness", "G's steepness")),
    ),
    ("Updates not finite, since the row before", Kind.LINEAR, (Line("non_finite_steps", "steps"),)),
)


@dataclass(frozen=True)
class Command:
    """A command line and what it is for."""

    why: str
    line: str


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page of a run, whole or not at all, to `out` (default `run_dir`/collapse/report.html); its path.

    Raises InputError if `run_dir` is no run folder, OSError if the page cannot be written.
    """
    page = render(read_record(run_dir))
    path = run_dir / "collapse" / "report.html" if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def render(record: Record) -> str:
    """The page."""
    templates = Environment(
        loader=PackageLoader("biggan.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["size"] = size_words
    layers = layer_charts(record.whole, record, "marks-whole")
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
        grids=grids_along_time(record),
        marks=[
            marks_of(name, view.span, record.events, record.checkpoints, record.good_step)
            for name, view in (("marks-whole", record.whole), ("marks-near", record.near))
            if view is not None
        ],
        curves=curve_charts(record.whole, "marks-whole"),
        near_curves=[] if record.near is None else curve_charts(record.near, "marks-near"),
        near_layers=[] if record.near is None else layer_charts(record.near, record, "marks-near")[:LAYERS_NEAR],
        layers=layers[:LAYERS_SHOWN],
        more_layers=layers[LAYERS_SHOWN:],
        events=record.events[: -EVENTS_SHOWN - 1 : -1],
    )


def curve_charts(view: View, marks: str) -> list[Chart]:
    """Losses, logits, accuracies, gradients, diversity: what the view has of them."""
    charts = (draw(view, title, kind, lines, marks) for title, kind, lines in CURVES if _worth_drawing(view, lines))
    return [chart for chart in charts if chart is not None]


def _worth_drawing(view: View, lines: Iterable[Line]) -> bool:
    """A count that is 0 throughout says nothing."""
    found = [curve for line in lines if line.key == "non_finite_steps" and (curve := view.now.get(line.key))]
    return all(any(value for _, value in curve.points()) for curve in found)


def layer_charts(view: View, record: Record, marks: str) -> list[Chart]:
    """sigma_0..2 of every layer: those that the latest alarm named first, then by recent growth of sigma_0."""
    alarmed = record.alarm.layers if record.alarm is not None else ()
    charts = []
    for layer, growth in rank_layers(view.now, alarmed):
        lines = [Line(f"sigma/{layer}/{k}", f"σ{'₀₁₂'[k]}", of_attempts=k == 0) for k in range(3)]
        note = ("named by the alarm; " if layer in alarmed else "") + f"σ₀ × {number(growth)} lately"
        charts.append(draw(view, layer, Kind.LOG, lines, marks, note))
    return [chart for chart in charts if chart is not None]


def facts(record: Record) -> list[tuple[str, str]]:
    """What the run is and how far it has come: name and value, with units."""
    steps = _setting(record, "training", "steps")
    found = [("step", f"{record.step:,}" + (f" of {steps:,}" if isinstance(steps, int) else ""))]
    row = record.last_row
    if "images_seen" in row:
        found.append(("images seen", f"{row['images_seen']:,}"))
    if "images_per_second" in row:
        found.append(("speed", f"{number(row['images_per_second'])} images/s"))
    if record.attempts:
        found.append(("rollbacks", str(record.attempts)))
    if record.good_step is not None:
        found.append(("last good checkpoint", f"step {record.good_step:,}"))
    return found


def commands(record: Record) -> list[Command]:
    """How to go on, the likeliest first: the same command, a child run, the paper's experiments."""
    run = os.path.normpath(record.run_dir)
    again = Command(
        "this run, as it is, from its newest checkpoint", f"biggan train {shlex.quote(run + '/config.yaml')}"
    )
    whole = [c.step for c in record.checkpoints if c.has_manifest]
    if record.good_step is None and not whole:
        return [again]
    start = shlex.quote(f"{run}@{'good' if record.good_step is not None else whole[-1]}")
    where = "the last good checkpoint" if record.good_step is not None else "the newest checkpoint"
    g_lr = _setting(record, "optimizer", "g_lr")
    halved = f"optimizer.g_lr={g_lr / 2:g}" if isinstance(g_lr, float) else "intervention.g_lr_factor=0.5"
    child = f"biggan train --resume {start} --as {shlex.quote(run + '-child')} {halved}"
    from_there = [
        Command(f"a child run from {where}, with half of G's learning rate", child),
        Command(f"the paper's experiments from {where}", f"biggan probe {start} --steps 300"),
    ]
    ill = bool(record.events) and record.events[-1].level in SEVERE
    return [*from_there, again] if ill else [again, *from_there]


def _setting(record: Record, section: str, key: str) -> object:
    values = record.config.get(section)
    return values.get(key) if isinstance(values, dict) else None


def size_words(size_bytes: int) -> str:
    """Bytes, for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes} B"
