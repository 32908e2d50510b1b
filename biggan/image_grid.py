"""Sample grids: images in rows, with a label per row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GAP = 2
MIN_TILE = 64
"""Minimum tile size in pixels; smaller images are enlarged by an integer factor, without interpolation."""


def evenly_spaced(count: int, most: int) -> list[int]:
    """Return at most `most` of the integers 0 to `count` - 1, evenly spaced."""
    rows = min(count, most)
    return [k * count // rows for k in range(rows)]


def grid(rows: NDArray[np.uint8], labels: Sequence[str]) -> Image.Image:
    """Draw images, uint8 [rows, columns, R, R, 3], as a grid with a label per row."""
    height, width, resolution = rows.shape[:3]
    scale = max(1, MIN_TILE // resolution)
    tile = resolution * scale
    font = ImageFont.load_default(max(11, tile // 4))
    margin = 8 + max(int(font.getlength(label)) for label in labels)
    figure = Image.new("RGB", (margin + width * (tile + GAP), height * (tile + GAP)), "white")
    draw = ImageDraw.Draw(figure)
    for r in range(height):
        draw.text((4, r * (tile + GAP) + tile // 2), labels[r], "black", font, anchor="lm")
        for c in range(width):
            image = Image.fromarray(rows[r, c]).resize((tile, tile), Image.Resampling.NEAREST)
            figure.paste(image, (margin + c * (tile + GAP), r * (tile + GAP)))
    return figure
