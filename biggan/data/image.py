"""One image of any kind -> one square image of 8 bits a channel, and its file's bytes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

CROPS = {
    "centre": "centre, to a square",
    "top": "top (of wide images the centre), to a square",
    "pad": "none: black bars make it a square",
    "stretch": "none: stretched to a square",
}
"""What each `--crop` does with an image that is not square, in words."""
COLOUR = {
    3: "RGB; 16-bit grey is v / 257, rounded; CMYK by its own profile if it has one",
    1: "grey (ITU-R 601 luma); 16-bit grey is v / 257, rounded; CMYK by its own profile if it has one",
}
"""What becomes of the colours, by the number of channels kept."""
PHOTOMETRIC, BITS_PER_SAMPLE = 262, 258
"""TIFF tags."""


def opened(data: bytes) -> Image.Image:
    """The image in a file's bytes; raises ValueError if they are none, another error of the decoder if damaged."""
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:  # its message names an address in memory
        raise ValueError(f"not an image of a known kind ({len(data):,} bytes)") from None


def square(image: Image.Image, resolution: int, crop: str = "centre", channels: int = 3) -> Image.Image:
    """Upright, RGB or (1 channel) grey, made a square by `crop`, resized with antialiasing (Lanczos).

    `crop` is a key of CROPS. Raises ValueError where it cannot be told which value is white.
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
        # Cropped before: resize(box=...) would let the filter reach beyond the crop.
        image = image.crop((left, top, left + side, top + side))
    target = (resolution, resolution)
    return image if image.size == target else image.resize(target, Image.Resampling.LANCZOS)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The upright image; deeper grey is scaled so that white is 255, and what it calls transparent is white."""
    white = _white(image)
    inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
    image = ImageOps.exif_transpose(image)
    if white is None:
        return image
    deep = np.asarray(image).astype(np.uint32)
    grey = ((deep * 255 + white // 2) // white).astype(np.uint8)
    if inverted:  # Pillow turns such images of 8 bits, but not of 16
        grey = 255 - grey
    if (transparent := image.info.get("transparency")) is not None:
        grey[deep == transparent] = 255
    return Image.fromarray(grey)


def _white(image: Image.Image) -> int | None:
    """Which value is white; None for 8 bits a channel."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return None
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
        return (1 << bits) - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # of these two, Pillow makes 16 bits of whatever there is
        return 65535
    raise ValueError(f"mode {image.mode}: which value is white cannot be told; save it with 8 or 16 bits per channel")


def _from_cmyk(image: Image.Image) -> Image.Image:
    """RGB. Pillow has already turned the inverted values that Adobe writes into JPEGs."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        turned = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError(f"its CMYK colour profile cannot be used ({error})") from None
    assert turned is not None, "not in place"
    return turned


def encode(image: Image.Image, encoding: str) -> bytes:
    """The image file's bytes: PNG (lossless), or JPEG at quality 95 without chroma subsampling."""
    out = io.BytesIO()
    if encoding == "png":
        image.save(out, "PNG", compress_level=4)
    else:
        image.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()
