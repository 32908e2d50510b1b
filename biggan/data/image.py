"""Conversion of an image of any mode to a square one with 8 bits per channel, and its encoding."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

CROPS = {
    "centre": "centre, to a square",
    "top": "top (of wide images the centre), to a square",
    "pad": "none: black bars make it a square",
    "stretch": "none: stretched to a square",
}
"""Description, in dataset.json, of each `--crop` applied to an image that is not square."""
COLOUR = {
    3: "RGB; 16-bit grey is v / 257, rounded; CMYK by its own profile if it has one",
    1: "grey (ITU-R 601 luma); 16-bit grey is v / 257, rounded; CMYK by its own profile if it has one",
}
"""Description, in dataset.json, of the colour conversion, by number of output channels."""
PHOTOMETRIC, BITS_PER_SAMPLE = 262, 258
"""TIFF tag numbers."""


def open_image(data: bytes) -> Image.Image:
    """Open the image in a file's bytes.

    Raise ValueError if the format is unknown, or any error of Pillow's decoder if the file is corrupt.
    """
    try:
        return Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:  # its message contains a memory address
        raise ValueError(f"not an image of a known format ({len(data):,} bytes)") from None


@cache
def _formats() -> list[str]:
    """Return the formats that Pillow reads itself; for EPS it starts Ghostscript, which runs the file's program."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def square(image: Image.Image, resolution: int, crop: str = "centre", channels: int = 3) -> Image.Image:
    """Return the image rotated by its EXIF tag, as RGB or grey (1 channel), square, resized with Lanczos.

    `crop` is a key of CROPS. Transparent pixels become white. Raise ValueError if the white level is unknown.
    """
    image = _eight_bits(image)
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    if "A" in image.getbands() or "transparency" in image.info:
        canvas = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if crop == "pad":
        return ImageOps.pad(image, (resolution, resolution), Image.Resampling.LANCZOS)
    if crop != "stretch":
        side = min(image.size)
        left, top = (image.width - side) // 2, 0 if crop == "top" else (image.height - side) // 2
        # Crop first: with resize(box=...) the filter would read pixels outside the crop.
        image = image.crop((left, top, left + side, top + side))
    target = (resolution, resolution)
    return image if image.size == target else image.resize(target, Image.Resampling.LANCZOS)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the image rotated by its EXIF tag; scale deeper grey so that white is 255, with transparent as white."""
    white = _white(image)
    inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
    image = ImageOps.exif_transpose(image)
    if white is None:
        return image
    deep = np.asarray(image).astype(np.uint32)
    grey = ((deep * 255 + white // 2) // white).astype(np.uint8)
    if inverted:  # Pillow inverts such images itself for 8 bits, but not for 16
        grey = 255 - grey
    if (transparent := image.info.get("transparency")) is not None:
        grey[deep == transparent] = 255
    return Image.fromarray(grey)


def _white(image: Image.Image) -> int | None:
    """Return the white level, or None for 8 bits per channel; raise ValueError if it is unknown."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return None
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
        return (1 << bits) - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # Pillow scales any depth of these two to 16 bits
        return 65535
    raise ValueError(f"mode {image.mode}: unknown white level; save the image with 8 or 16 bits per channel")


def _from_cmyk(image: Image.Image) -> Image.Image:
    """Return the image as RGB, converted by its own profile if it has one.

    Pillow has already undone the inversion of Adobe's CMYK JPEGs.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        rgb = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError(f"unusable CMYK colour profile ({error})") from None
    assert rgb is not None, "profileToProfile returns an image unless inPlace is set"
    return rgb


def encode(image: Image.Image, encoding: str) -> bytes:
    """Encode as PNG (lossless) or as JPEG at quality 95 without chroma subsampling; return the file's bytes."""
    out = io.BytesIO()
    if encoding == "png":
        image.save(out, "PNG", compress_level=4)
    else:
        image.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()
