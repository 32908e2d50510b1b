"""Sample grids in the report: which ones, and their pixels as part of the page."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from biggan.report.run_record import ROLLED_BACK, Record

MOST_GRIDS = 12
"""Along time, evenly spaced; the newest always."""
GRID_PIXELS = (480, 720)
PAIR_PIXELS = (1000, 1400)
"""Width and height at most: of a grid along time, and of the last good and the first bad one."""
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Grid:
    """A sample grid in the page."""

    step: int
    note: str
    uri: str
    width: int
    height: int


def grids_along_time(record: Record) -> list[Grid]:
    """At most `MOST_GRIDS` of the run's grids, in order of step."""
    folder = record.run_dir / "samples"
    steps = _steps(folder)
    few = min(len(steps), MOST_GRIDS)
    chosen = [steps[(k + 1) * len(steps) // few - 1] for k in range(few)]
    grids = [_grid(folder, step, "", GRID_PIXELS) for step in chosen]
    return [grid for grid in grids if grid is not None]


def good_and_bad(record: Record) -> tuple[Grid | None, Grid | None]:
    """The last grid before the latest alarm's onset, and the first from the alarm on.

    If there is none from the alarm on, the last one since the onset. A rollback has put the grids of the path that it
    left beside that path's metrics.
    """
    alarm = record.alarm
    if alarm is None:
        return None, None
    folder = record.run_dir / "samples"
    left = record.run_dir / "collapse" / f"attempt_{record.attempts:02d}" if alarm.action == ROLLED_BACK else folder
    before = [step for step in _steps(folder) if step < alarm.start_step]
    ill = [step for step in _steps(left) if step >= alarm.start_step]
    first_ill = next((step for step in ill if step >= alarm.step), ill[-1] if ill else None)
    good = _grid(folder, before[-1], "the last before the onset", PAIR_PIXELS) if before else None
    note = "after the onset" if first_ill is None or first_ill < alarm.step else "the first from the alarm on"
    bad = None if first_ill is None else _grid(left, first_ill, note, PAIR_PIXELS)
    return good, bad


def _steps(folder: Path) -> list[int]:
    names = (file.name for file in folder.glob("step_*.png"))
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step_(\d+)\.png", name)))


def _grid(folder: Path, step: int, note: str, most_pixels: tuple[int, int]) -> Grid | None:
    """The grid of a step, scaled down; None if it cannot be read (the run may be writing it)."""
    try:
        with Image.open(folder / f"step_{step:08d}.png") as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # SyntaxError: Pillow's broken PNG
        return None
    picture.thumbnail(most_pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Grid(step, note, uri, picture.width, picture.height)
