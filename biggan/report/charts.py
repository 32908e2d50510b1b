"""Charts as inline SVG, coloured by the page's style sheet (so they follow light and dark).

Written by hand rather than by matplotlib: a small chart of three curves of 1,000 points takes matplotlib 43 ms and
71 kB (6 s and 11 MB for 150 layers), with colours fixed and no tooltips; marks that all charts share are drawn once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from biggan.report.axes import Kind, Scale, number, scale_for, step_ticks
from biggan.report.curves import Curve, Curves, Span, View
from biggan.report.run_record import CheckpointMark, Event

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 352, 12, 160
"""Where the plot begins and ends in the picture, in its units (about a pixel each)."""
CHECKPOINT_Y = 166
MOST_MARKS = 100
"""Alarms, or checkpoints, marked on a chart: the newest. Non-finite points of a curve: the first."""
LEVELS = ("warning", "collapsing", "collapsed")


@dataclass(frozen=True)
class Line:
    """A curve of a chart: which metric, its name in the legend."""

    key: str
    name: str
    of_attempts: bool = True
    """Whether it is drawn of earlier attempts too."""


@dataclass(frozen=True)
class Legend:
    """What stands above a chart for one of its curves."""

    name: str
    series: int
    last: str


@dataclass(frozen=True)
class Chart:
    """A drawn chart and its legend."""

    title: str
    svg: Markup
    legend: tuple[Legend, ...]
    note: str = ""


def draw(view: View, title: str, kind: Kind, lines: Sequence[Line], marks: str, note: str = "") -> Chart | None:
    """A chart of the lines that exist in the view; None if none does. `marks` is the id of its `marks_of`."""
    now = _found(view.now, lines)
    earlier = [found for attempt in view.attempts for found in _found(attempt, lines) if found.line.of_attempts]
    values = [value for found in (*now, *earlier) for _, value in found.curve.finite()]
    if not values:
        return None
    scale = scale_for(kind, values)
    parts = [_axis(scale), Markup('<use href="#{}"/>').format(marks)]
    for found in earlier:
        parts.append(_polylines(found.curve, view.span, scale, f"earlier s{found.series}", "an earlier attempt"))
    for found in reversed(now):  # the first line on top
        parts.append(_polylines(found.curve, view.span, scale, f"s{found.series}", _summary(found)))
        parts.append(_lost(found.curve, view.span))
    label = f"{title}, steps {view.span.first:,} to {view.span.last:,}"
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )
    return Chart(title, svg, tuple(Legend(found.line.name, found.series, _last(found.curve)) for found in now), note)


@dataclass(frozen=True)
class _Found:
    series: int
    line: Line
    curve: Curve


def _found(curves: Curves, lines: Sequence[Line]) -> list[_Found]:
    """The lines whose metric is there; a series keeps its number, and so its colour, when another is missing."""
    return [_Found(k, line, curve) for k, line in enumerate(lines) if (curve := curves.get(line.key))]


def marks_of(
    name: str, span: Span, events: Sequence[Event], checkpoints: Sequence[CheckpointMark], good: int | None
) -> Markup:
    """What all charts of a span share, drawn once under the id `name`: steps, alarms, checkpoints."""
    parts = [_step_tick(step, span) for step in step_ticks(span.first, span.last)]
    alarms = [event for event in events if event.is_alarm and event.step in span]
    parts += [_alarm(event, span) for event in alarms[-MOST_MARKS:]]
    shown = [c for c in checkpoints if c.step in span][-MOST_MARKS:]
    parts += [_checkpoint(c, span, good) for c in sorted(shown, key=lambda c: (c.step == good, c.step))]
    return Markup('<svg class="defs" aria-hidden="true"><defs><g id="{}">{}</g></defs></svg>').format(
        name, Markup("").join(parts)
    )


def x_of(step: float, span: Span) -> float:
    """Where a step stands on a chart of a span."""
    return LEFT + span.share(step) * (RIGHT - LEFT)


def _y(scale: Scale, value: float) -> float:
    return BOTTOM - scale.share(value) * (BOTTOM - TOP)


def _axis(scale: Scale) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text class="y" x="{}" y="{:.1f}">{}</text>')
    at = [(tick, _y(scale, tick)) for tick in scale.ticks]
    return Markup("").join(
        part
        for tick, y in at
        for part in (line.format(LEFT, RIGHT, y, y), text.format(LEFT - 5, y + 3.5, number(tick)))
    )


def _step_tick(step: int, span: Span) -> Markup:
    x = x_of(step, span)
    anchor = "end" if x > RIGHT - 20 else "middle"
    return Markup('<text class="x" text-anchor="{}" x="{:.1f}" y="{}">{:,}</text>').format(anchor, x, HEIGHT - 5, step)


def _alarm(event: Event, span: Span) -> Markup:
    """A line at the step of the verdict with a handle on top; a dashed one at the estimated onset."""
    x, level = x_of(event.step, span), event.level if event.level in LEVELS else "warning"
    parts = []
    if event.onset_step is not None and event.onset_step in span:
        dashed = Markup('<line class="onset {}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"><title>{}</title></line>')
        at = x_of(event.onset_step, span)
        parts.append(dashed.format(level, at, at, TOP, BOTTOM, f"step {event.onset_step:,}: onset, as estimated"))
    why = f"step {event.step:,}: {event.level}" + "".join(f"\n{reason}" for reason in event.reasons)
    if event.action != "none":
        why += f"\n{event.action}"
    solid = Markup(
        '<g class="alarm {}"><title>{}</title><line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/><path d="{}"/></g>'
    )
    parts.append(solid.format(level, why, x, x, TOP, BOTTOM, f"M{x - 5:.1f},2h10l-5,9z"))
    return Markup("").join(parts)


def _checkpoint(checkpoint: CheckpointMark, span: Span, good: int | None) -> Markup:
    """A tick below the plot; a diamond if pinned, a disc if it is the last good one."""
    x, y = x_of(checkpoint.step, span), CHECKPOINT_Y
    kind, shape = "kept", f"M{x:.1f},{y - 4}v7"
    if checkpoint.pinned_because is not None:
        kind, shape = "pinned", f"M{x:.1f},{y - 5}l4,5l-4,5l-4,-5z"
    if checkpoint.step == good:
        kind, shape = "good", f"M{x - 5:.1f},{y}a5,5 0 1 0 10,0a5,5 0 1 0 -10,0"
    said = f"checkpoint {checkpoint.step:,}" + {"kept": "", "pinned": ", pinned", "good": ", the last good one"}[kind]
    return Markup('<path class="checkpoint {}" d="{}"><title>{}</title></path>').format(kind, shape, said)


def _polylines(curve: Curve, span: Span, scale: Scale, css: str, title: str) -> Markup:
    """The curve, broken where it is not finite."""
    pieces: list[list[str]] = [[]]
    for step, value in curve.points():
        if math.isfinite(value):
            pieces[-1].append(f"{x_of(step, span):.1f},{_y(scale, value):.1f}")
        elif pieces[-1]:
            pieces.append([])
    # A point alone is written twice: with round caps, a line of no length is a dot.
    drawn = (
        Markup('<polyline points="{}"/>').format(" ".join(piece * 2 if len(piece) == 1 else piece)) for piece in pieces
    )
    return Markup('<g class="{}"><title>{}</title>{}</g>').format(css, title, Markup("").join(drawn))


def _lost(curve: Curve, span: Span) -> Markup:
    """A cross at the top for each point that is NaN or infinite."""
    steps = [step for step, value in curve.points() if not math.isfinite(value)][:MOST_MARKS]
    cross = Markup('<path class="lost" d="{}"><title>{}</title></path>')
    return Markup("").join(
        cross.format(f"M{x_of(step, span) - 3:.1f},{TOP}l6,6m0,-6l-6,6", f"step {step:,}: not finite") for step in steps
    )


def _summary(found: _Found) -> str:
    values = [value for _, value in found.curve.finite()] or [math.nan]
    said = f"last {_last(found.curve)}, lowest {number(min(values))}, highest {number(max(values))}"
    return f"{found.line.name}: {said}"


def _last(curve: Curve) -> str:
    return number(curve.points()[-1][1])
