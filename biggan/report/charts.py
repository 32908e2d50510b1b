"""Charts as inline SVG. The page's style sheet sets the colours, so charts follow the light and the dark theme.

matplotlib is not used: a small chart of three curves of 1,000 points takes it 43 ms and 71 kB (6 s and 11 MB for 150
layers), its colours are fixed, and it draws no tooltips. Marks that are common to all charts are drawn once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from biggan.report.axes import Kind, Scale, number, scale_for, step_ticks
from biggan.report.curves import Curve, Curves, CurveView, Span
from biggan.report.run_record import CheckpointMark, Event

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 352, 12, 160
"""Edges of the plot inside the SVG, in its units (about one pixel each)."""
CHECKPOINT_Y = 166
MAX_MARKS = 100
"""Maximum number of marks: the newest alarms or checkpoints of a chart, and the first non-finite points of a curve."""
LEVELS = ("warning", "collapsing", "collapsed")


@dataclass(frozen=True)
class Line:
    """Curve of a chart: the key of its metric and its name in the legend."""

    key: str
    name: str
    with_attempts: bool = True
    """True if the curves of earlier attempts are drawn too."""


@dataclass(frozen=True)
class LegendEntry:
    """Legend of one curve: its name, the number of its colour, and its last value."""

    name: str
    series: int
    last: str


@dataclass(frozen=True)
class Chart:
    """Chart as SVG, with its legend."""

    title: str
    svg: Markup
    legend: tuple[LegendEntry, ...]
    note: str = ""


def draw(view: CurveView, title: str, kind: Kind, lines: Sequence[Line], marks: str, note: str = "") -> Chart | None:
    """Draw a chart of the lines that exist in the view; None if there are none. `marks` is the `name` of
    `draw_marks`."""
    now = _existing_lines(view.now, lines)
    earlier = [
        drawn for attempt in view.attempts for drawn in _existing_lines(attempt, lines) if drawn.line.with_attempts
    ]
    values = [value for drawn in (*now, *earlier) for _, value in drawn.curve.finite()]
    if not values:
        return None
    scale = scale_for(kind, values)
    parts = [_axis(scale), Markup('<use href="#{}"/>').format(marks)]
    for drawn in earlier:
        parts.append(_polylines(drawn.curve, view.span, scale, f"earlier s{drawn.series}", "an earlier attempt"))
    for drawn in reversed(now):  # the first line is drawn on top
        parts.append(_polylines(drawn.curve, view.span, scale, f"s{drawn.series}", _summary(drawn)))
        parts.append(_non_finite_marks(drawn.curve, view.span))
    label = f"{title}, steps {view.span.first:,} to {view.span.last:,}"
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )
    return Chart(
        title, svg, tuple(LegendEntry(drawn.line.name, drawn.series, _last(drawn.curve)) for drawn in now), note
    )


@dataclass(frozen=True)
class _DrawnLine:
    series: int
    line: Line
    curve: Curve


def _existing_lines(curves: Curves, lines: Sequence[Line]) -> list[_DrawnLine]:
    """Return the lines whose metric exists; a line keeps its number, and so its colour, if another is missing."""
    return [_DrawnLine(k, line, curve) for k, line in enumerate(lines) if (curve := curves.get(line.key))]


def draw_marks(
    name: str, span: Span, events: Sequence[Event], checkpoints: Sequence[CheckpointMark], good: int | None
) -> Markup:
    """Draw the marks common to all charts of a span, with the id `name`: steps, alarms, checkpoints."""
    parts = [_step_tick(step, span) for step in step_ticks(span.first, span.last)]
    alarms = [event for event in events if event.is_alarm and event.step in span]
    parts += [_alarm(event, span) for event in alarms[-MAX_MARKS:]]
    shown = [c for c in checkpoints if c.step in span][-MAX_MARKS:]
    parts += [_checkpoint(c, span, good) for c in sorted(shown, key=lambda c: (c.step == good, c.step))]
    return Markup('<svg class="defs" aria-hidden="true"><defs><g id="{}">{}</g></defs></svg>').format(
        name, Markup("").join(parts)
    )


def x_of(step: float, span: Span) -> float:
    """Return the x coordinate of a step on a chart of a span."""
    return LEFT + span.fraction(step) * (RIGHT - LEFT)


def _y(scale: Scale, value: float) -> float:
    return BOTTOM - scale.fraction(value) * (BOTTOM - TOP)


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
    """Draw a line with a triangle on top at the step of the verdict, and a dashed line at the estimated onset."""
    x, level = x_of(event.step, span), event.level if event.level in LEVELS else "warning"
    parts = []
    if event.onset_step is not None and event.onset_step in span:
        dashed = Markup('<line class="onset {}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"><title>{}</title></line>')
        at = x_of(event.onset_step, span)
        parts.append(dashed.format(level, at, at, TOP, BOTTOM, f"step {event.onset_step:,}: estimated onset"))
    tooltip = f"step {event.step:,}: {event.level}" + "".join(f"\n{reason}" for reason in event.reasons)
    if event.action != "none":
        tooltip += f"\n{event.action}"
    solid = Markup(
        '<g class="alarm {}"><title>{}</title><line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/><path d="{}"/></g>'
    )
    parts.append(solid.format(level, tooltip, x, x, TOP, BOTTOM, f"M{x - 5:.1f},2h10l-5,9z"))
    return Markup("").join(parts)


def _checkpoint(checkpoint: CheckpointMark, span: Span, good: int | None) -> Markup:
    """Draw a tick below the plot; a diamond if the checkpoint is pinned, a disc if it is the last good one."""
    x, y = x_of(checkpoint.step, span), CHECKPOINT_Y
    kind, shape = "kept", f"M{x:.1f},{y - 4}v7"
    if checkpoint.pinned_because is not None:
        kind, shape = "pinned", f"M{x:.1f},{y - 5}l4,5l-4,5l-4,-5z"
    if checkpoint.step == good:
        kind, shape = "good", f"M{x - 5:.1f},{y}a5,5 0 1 0 10,0a5,5 0 1 0 -10,0"
    tooltip = (
        f"checkpoint {checkpoint.step:,}" + {"kept": "", "pinned": ", pinned", "good": ", the last good one"}[kind]
    )
    return Markup('<path class="checkpoint {}" d="{}"><title>{}</title></path>').format(kind, shape, tooltip)


def _polylines(curve: Curve, span: Span, scale: Scale, css: str, title: str) -> Markup:
    """Draw the curve, interrupted at non-finite points."""
    pieces: list[list[str]] = [[]]
    for step, value in curve.points():
        if math.isfinite(value):
            pieces[-1].append(f"{x_of(step, span):.1f},{_y(scale, value):.1f}")
        elif pieces[-1]:
            pieces.append([])
    # Write a single point twice: with round caps, a line of length 0 is drawn as a dot.
    polylines = (
        Markup('<polyline points="{}"/>').format(" ".join(piece * 2 if len(piece) == 1 else piece)) for piece in pieces
    )
    return Markup('<g class="{}"><title>{}</title>{}</g>').format(css, title, Markup("").join(polylines))


def _non_finite_marks(curve: Curve, span: Span) -> Markup:
    """Draw a cross at the top for each point that is NaN or infinite."""
    steps = [step for step, value in curve.points() if not math.isfinite(value)][:MAX_MARKS]
    cross = Markup('<path class="non-finite" d="{}"><title>{}</title></path>')
    return Markup("").join(
        cross.format(f"M{x_of(step, span) - 3:.1f},{TOP}l6,6m0,-6l-6,6", f"step {step:,}: not finite") for step in steps
    )


def _summary(drawn: _DrawnLine) -> str:
    values = [value for _, value in drawn.curve.finite()] or [math.nan]
    numbers = f"last {_last(drawn.curve)}, lowest {number(min(values))}, highest {number(max(values))}"
    return f"{drawn.line.name}: {numbers}"


def _last(curve: Curve) -> str:
    return number(curve.points()[-1][1])
