"""Selects the sample grids of the report and embeds them in the page."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from biggan.report.run_record import ROLLED_BACK, Record

MAX_GRIDS = 12
"""Maximum number of grids over time; they are evenly spaced and include the newest."""
GRID_PIXELS = (480, 720)
PAIR_PIXELS = (1000, 1400)
"""Maximum width and height in pixels: of a grid over time, and of the last good and the first bad grid."""
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Grid:
    """Sample grid as an image of the page; `uri` holds the pixels."""

    step: int
    note: str
    uri: str
    width: int
    height: int


def grids_over_time(record: Record) -> list[Grid]:
    """Return at most `MAX_GRIDS` of the run's grids, in order of step."""
    folder = record.run_dir / "samples"
    steps = _steps(folder)
    count = min(len(steps), MAX_GRIDS)
    chosen = [steps[(k + 1) * len(steps) // count - 1] for k in range(count)]
    grids = [_grid(folder, step, "", GRID_PIXELS) for step in chosen]
    return [grid for grid in grids if grid is not None]


def good_and_bad(record: Record) -> tuple[Grid | None, Grid | None]:
    """Return the last grid before the onset of the latest alarm, and the first grid at or after the alarm.

    Without a grid at or after the alarm, the second one is the last grid since the onset. After a rollback, the grids
    of the abandoned trajectory are beside its metrics, in `collapse/attempt_NN`.
    """
    alarm = record.alarm
    if alarm is None:
        return None, None
    folder = record.run_dir / "samples"
    alarm_folder = (
        record.run_dir / "collapse" / f"attempt_{record.attempts:02d}" if alarm.action == ROLLED_BACK else folder
    )
    before = [step for step in _steps(folder) if step < alarm.start_step]
    since_onset = [step for step in _steps(alarm_folder) if step >= alarm.start_step]
    bad_step = next((step for step in since_onset if step >= alarm.step), since_onset[-1] if since_onset else None)
    good = _grid(folder, before[-1], "last grid before the onset", PAIR_PIXELS) if before else None
    note = "after the onset" if bad_step is None or bad_step < alarm.step else "first grid at or after the alarm"
    bad = None if bad_step is None else _grid(alarm_folder, bad_step, note, PAIR_PIXELS)
    return good, bad


def _steps(folder: Path) -> list[int]:
    names = (file.name for file in folder.glob("step_*.png"))
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step_(\d+)\.png", name)))


def _grid(folder: Path, step: int, note: str, max_pixels: tuple[int, int]) -> Grid | None:
    """Return the grid of a step, scaled down; None if it cannot be read (the run may be writing it)."""
    try:
        with Image.open(folder / f"step_{step:08d}.png") as file:
            image = file.convert("RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ):  # Pillow raises SyntaxError for a broken PNG
        return None
    image.thumbnail(max_pixels)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Grid(step, note, uri, image.width, image.height)
