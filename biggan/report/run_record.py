"""Reads a run folder, also while the run is writing to it: missing files and truncated rows are skipped."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from biggan.errors import InputError, without_credentials
from biggan.files import MalformedFile, read_bytes
from biggan.report.curves import CurveView, Span, is_step, last_row, read_views, rows

CONFIG, METRICS = "config.yaml", "metrics.jsonl"
HEALTHY = "healthy"
SEVERE = ("collapsing", "collapsed")
ROLLED_BACK = "rolled back"
MAX_ATTEMPTS = 8
"""Maximum number of trajectories abandoned by rollbacks that are drawn: the newest ones."""
MIN_MARGIN_STEPS = 500
"""Minimum number of steps before and after an alarm in its view; a collapse takes a few hundred steps."""


@dataclass(frozen=True)
class Event:
    """Row of `collapse/events.jsonl`: a change of verdict, and the action taken."""

    step: int
    level: str
    onset_step: int | None
    reasons: tuple[str, ...]
    layers: tuple[str, ...]
    signals: tuple[str, ...]
    action: str
    good_step: int | None

    @property
    def is_alarm(self) -> bool:
        """True unless the verdict is `healthy`."""
        return self.level != HEALTHY

    @property
    def start_step(self) -> int:
        """The estimated onset, or the step of the alarm without one."""
        return self.step if self.onset_step is None else self.onset_step


@dataclass(frozen=True)
class CheckpointMark:
    """Checkpoint folder, judged by file names and sizes only (no checksums are verified)."""

    step: int
    size_bytes: int
    has_manifest: bool
    pinned_because: str | None


@dataclass(frozen=True)
class Record:
    """Contents of the report except its sample grids."""

    run_dir: Path
    config_text: str
    config: Mapping[str, Any]
    lineage: Mapping[str, Any]
    last_row: Mapping[str, Any]
    events: tuple[Event, ...]
    checkpoints: tuple[CheckpointMark, ...]
    good_step: int | None
    attempts: int
    full_view: CurveView
    alarm_view: CurveView | None
    """Curves around the latest alarm; None if the full view shows the alarm well enough."""

    @property
    def step(self) -> int:
        """The last logged step."""
        return int(self.last_row.get("step", 0))

    @property
    def alarm(self) -> Event | None:
        """The latest collapse, or the latest warning without a collapse."""
        return _latest_alarm(self.events)


def read_record(run_dir: Path) -> Record:
    """Read a run folder; raises InputError if it is not one."""
    try:
        is_run = (run_dir / CONFIG).is_file() or (run_dir / METRICS).is_file()
    except OSError as error:
        raise InputError(f"{run_dir}: cannot be read ({error.strerror or error}); fix it and rerun") from None
    if not is_run:
        raise InputError(
            f"{run_dir}: not a run folder (no {CONFIG}); give the run.dir of a run, for example runs/digits"
        )
    config_text = _text(run_dir / CONFIG)
    lineage = _json(run_dir / "lineage.json")
    events = tuple(_event(row) for row in rows(run_dir / "collapse" / "events.jsonl"))
    attempts = sorted((run_dir / "collapse").glob("attempt_*.jsonl"))
    last = last_row(run_dir / METRICS)
    ends = [last.get("step", 0), *(last_row(path).get("step", 0) for path in attempts), *(e.step for e in events)]
    full = Span(_int_or_none(lineage.get("step")) or 0, max(ends))
    near = alarm_span(full, _latest_alarm(events))
    views = read_views(run_dir / METRICS, attempts[-MAX_ATTEMPTS:], [full] if near is None else [full, near])
    pinned = _json(run_dir / "checkpoints" / "pinned.json")
    return Record(
        run_dir=run_dir,
        config_text=without_credentials(config_text),
        config=_yaml(config_text),
        lineage=lineage,
        last_row=last,
        events=events,
        checkpoints=_checkpoints(run_dir / "checkpoints", pinned.get("pinned")),
        good_step=_int_or_none(pinned.get("good")) or (events[-1].good_step if events else None),
        attempts=len(attempts),
        full_view=views[0],
        alarm_view=None if near is None else views[1],
    )


def alarm_span(full: Span, alarm: Event | None) -> Span | None:
    """Return the steps around an alarm; None without an alarm, or if they are at least a third of the run."""
    if alarm is None:
        return None
    margin = max(MIN_MARGIN_STEPS, 2 * (alarm.step - alarm.start_step))
    near = Span(max(full.first, alarm.start_step - margin), min(full.last, alarm.step + margin))
    return near if 3 * (near.last - near.first) < full.last - full.first else None


def _latest_alarm(events: Sequence[Event]) -> Event | None:
    alarms = [event for event in events if event.is_alarm]
    severe = [event for event in alarms if event.level in SEVERE]
    return next(reversed(severe or alarms), None)


def _event(row: Mapping[str, Any]) -> Event:
    return Event(
        step=row["step"],
        level=str(row.get("level", HEALTHY)),
        onset_step=_int_or_none(row.get("onset_step")),
        reasons=_strings(row.get("reasons")),
        layers=_strings(row.get("layers")),
        signals=_strings(row.get("signals")),
        action=str(row.get("action", "none")),
        good_step=_int_or_none(row.get("good_step")),
    )


def _checkpoints(root: Path, pinned: object) -> tuple[CheckpointMark, ...]:
    reasons = pinned if isinstance(pinned, dict) else {}
    folders = [f for f in root.glob("step_*") if re.fullmatch(r"step_\d{8,}", f.name)]
    marks = []
    for folder in folders:
        step = int(folder.name.removeprefix("step_"))
        reason = reasons.get(str(step))
        size, names = _contents(folder)
        marks.append(CheckpointMark(step, size, "manifest.json" in names, None if reason is None else str(reason)))
    return tuple(sorted(marks, key=lambda mark: mark.step))


def _contents(folder: Path) -> tuple[int, set[str]]:
    """Return the size in bytes and the names of a folder's files; the run may be removing it."""
    size, names = 0, set()
    try:
        for file in folder.iterdir():
            size += file.stat().st_size
            names.add(file.name)
    except OSError:
        pass
    return size, names


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8", errors="replace")
    except (MalformedFile, OSError):
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_bytes(path))
    except (ValueError, RecursionError, OSError):  # MalformedFile is a ValueError
        return {}
    return value if isinstance(value, dict) else {}


def _yaml(text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError):
        return {}
    return value if isinstance(value, dict) else {}


def _int_or_none(value: object) -> int | None:
    return value if isinstance(value, int) and is_step(value) else None


def _strings(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
