"""Grids of images with a label per row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GAP = 2
MIN_TILE = 64
"""Pixels a tile is enlarged to (by whole factors, so that small images stay what they are)."""


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to `count` - 1, evenly spaced: which classes a picture shows."""
    rows = min(count, most)
    return [k * count // rows for k in range(rows)]


def grid(rows: NDArray[np.uint8], labels: Sequence[str]) -> Image.Image:
    """uint8 [rows, columns, R, R, 3] and a label per row -> one picture."""
    height, width, resolution = rows.shape[:3]
    scale = max(1, MIN_TILE // resolution)
    tile = resolution * scale
    font = ImageFont.load_default(max(11, tile // 4))
    margin = 8 + max(int(font.getlength(label)) for label in labels)
    picture = Image.new("RGB", (margin + width * (tile + GAP), height * (tile + GAP)), "white")
    draw = ImageDraw.Draw(picture)
    for r in range(height):
        draw.text((4, r * (tile + GAP) + tile // 2), labels[r], "black", font, anchor="lm")
        for c in range(width):
            image = Image.fromarray(rows[r, c]).resize((tile, tile), Image.Resampling.NEAREST)
            picture.paste(image, (margin + c * (tile + GAP), r * (tile + GAP)))
    return picture
