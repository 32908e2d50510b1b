"""Conversion of images of every mode, depth and shape, from the bytes of real files."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from biggan.data.image import encode, open_image, square

RNG = np.random.default_rng(0)


def written(image, kind, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def packed(data: bytes, resolution=16, **settings):
    return np.asarray(square(open_image(data), resolution, **settings))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (10, 10), 100), (100, 100, 100)),
        (Image.new("LA", (10, 10), (100, 0)), (255, 255, 255)),
        (Image.new("LA", (10, 10), (100, 255)), (100, 100, 100)),
        (Image.new("P", (10, 10), 0), (0, 0, 0)),
        (Image.new("RGBA", (10, 10), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (10, 10), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("1", (10, 10), 1), (255, 255, 255)),
        (Image.new("CMYK", (10, 10), (0, 255, 255, 0)), (255, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb_or_grey(image, expected):
    result = square(image, 32)
    assert (result.mode, result.size) == ("RGB", (32, 32))
    assert result.getpixel((16, 16)) == expected
    grey = square(image, 32, channels=1)
    assert (grey.mode, grey.size) == ("L", (32, 32))
    assert abs(grey.getpixel((16, 16)) - np.dot(expected, (0.299, 0.587, 0.114))) <= 0.5  # ITU-R 601


def test_grey_pixels_are_unchanged_and_png_is_lossless():
    pixels = RNG.integers(0, 256, (16, 16), np.uint8)
    data = encode(square(Image.fromarray(pixels), 16, channels=1), "png")
    assert open_image(data).mode == "L"
    assert np.array_equal(np.asarray(open_image(data)), pixels)
    assert open_image(encode(square(Image.fromarray(pixels), 16, channels=1), "jpeg")).mode == "L"


def pgm(deep):
    return b"P5 16 16 65535\n" + deep.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "write",
    [
        lambda deep: written(Image.fromarray(deep), "PNG"),
        lambda deep: written(Image.fromarray(deep), "TIFF"),
        lambda deep: tiff(deep, bits=16, big_endian=True),
        pgm,
    ],
    ids=["png", "tiff", "big-endian tiff", "pgm"],
)
def test_sixteen_bits_are_scaled_linearly(write):
    deep = RNG.integers(0, 65536, (16, 16), np.uint16)
    deep[0, :4] = 0, 255, 256, 65535
    expected = np.rint(deep / 257.0)
    assert np.array_equal(packed(write(deep), channels=1), expected)
    assert np.array_equal(packed(write(deep))[..., 1], expected)


def tiff(values, bits, photometric=1, big_endian=False) -> bytes:
    """Encode a TIFF of 16 x 16 values; Pillow cannot write 12 bits, nor files in which 0 is white."""
    order = ">" if big_endian else "<"
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(np.uint32)
        three = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
        data = three.astype(np.uint8).tobytes()
    else:
        data = values.astype(f"{order}u2").tobytes()
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 16, 279: len(data)}
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 4 if tag in (273, 279) else 3, 1)
        + struct.pack(f"{order}I" if tag in (273, 279) else f"{order}Hxx", value)
        for tag, value in tags.items()
    )
    head = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def test_twelve_bits_are_scaled_and_white_is_zero_tiffs_are_inverted():
    values = RNG.integers(0, 4096, (16, 16), np.uint16)
    values[0, :2] = 0, 4095
    assert np.array_equal(packed(tiff(values, bits=12), channels=1), np.rint(values * 255.0 / 4095))
    deep = RNG.integers(0, 65536, (16, 16), np.uint16)
    assert np.array_equal(packed(tiff(deep, bits=16, photometric=0), channels=1), 255 - np.rint(deep / 257.0))


def test_sixteen_bits_are_rotated_by_exif_and_their_transparent_value_is_white():
    deep = RNG.integers(0, 65535, (16, 16), np.uint16)
    deep[3, 3] = 500
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    result = packed(written(Image.fromarray(deep), "PNG", exif=exif, transparency=500), channels=1)
    expected = np.rint(deep / 257.0)
    expected[3, 3] = 255
    assert np.array_equal(result, np.rot90(expected, -1))


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70_000), ("I", -5), ("I", 200)])
def test_unknown_white_level_is_refused(mode, value):
    data = written(Image.new(mode, (8, 8), value), "TIFF")
    with pytest.raises(ValueError, match=f"mode {mode}: .*8 or 16 bits"):
        packed(data)


def test_inverted_cmyk_jpegs_of_adobe_are_decoded_correctly():
    for inks, expected in [
        ((0, 255, 255, 0), (255, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ]:
        data = written(Image.new("CMYK", (16, 16), inks), "JPEG", quality=95)
        assert b"Adobe" in data
        # JPEG rounds coefficients; inverted inks would be off by 100 and more.
        assert np.abs(packed(data).reshape(-1, 3).astype(int) - expected).max() <= 3


def cmyk_profile() -> bytes:
    """Build an ICC profile: Lab is (90, 0, 0) without magenta, (40, 0, 0) with full magenta, and black is black."""
    # lut8: CMYK -> Lab, identity curves and a grid of 2 points per axis; L is stored as L * 255 / 100.
    grid = bytes(
        v
        for c in (0, 1)
        for m in (0, 1)
        for y in (0, 1)
        for k in (0, 1)
        for v in (0 if k else 102 if m else 230, 128, 128)
    )
    identity = struct.pack(">9i", *(65536 if k % 4 == 0 else 0 for k in range(9)))
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + grid + ramp * 3
    text = b"text" + bytes(4) + b"none\0"
    described = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, table, at = {b"desc": described, b"cprt": text, b"wtpt": white, b"A2B0": lut}, b"", 128 + 4 + 4 * 12
    body = b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x02100000, b"prtr", b"CMYK", b"Lab ") + bytes(12)
    head += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_is_converted_by_its_own_profile(kind):
    """Lab L of 90 and 40 is sRGB 226 and 94 (CIE: Y = ((L + 16) / 116)^3, then sRGB's curve)."""
    for inks, lightness in [((255, 0, 255, 0), 90), ((0, 255, 0, 0), 40)]:
        data = written(Image.new("CMYK", (16, 16), inks), kind, icc_profile=cmyk_profile())
        luminance = ((lightness + 16) / 116) ** 3
        expected = 255 * (1.055 * luminance ** (1 / 2.4) - 0.055)
        # Two roundings to 8 bits, and the slope of the gamma curve between them.
        assert np.abs(packed(data).astype(float) - expected).max() <= 3
    broken = written(Image.new("CMYK", (16, 16)), kind, icc_profile=b"no profile at all")
    with pytest.raises(ValueError, match="CMYK colour profile"):
        packed(broken)
    wrong = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with pytest.raises(ValueError, match="CMYK colour profile"):
        packed(written(Image.new("CMYK", (16, 16)), kind, icc_profile=wrong))


def test_error_for_an_unknown_format_has_the_size_and_no_memory_address():
    with pytest.raises(ValueError, match=r"\(7 bytes\)") as error:
        open_image(b"nothing")
    assert "0x" not in str(error.value)


def bands(size, boxes):
    image = Image.new("RGB", size, "red")
    for colour, box in boxes.items():
        image.paste(Image.new("RGB", (box[2] - box[0], box[3] - box[1]), colour), box[:2])
    return image


WIDE = bands((300, 100), {"blue": (100, 0, 200, 100), "lime": (200, 0, 300, 100)})  # red, blue, green
TALL = bands((100, 300), {"blue": (0, 100, 100, 200), "lime": (0, 200, 100, 300)})
RED, BLUE, GREEN, BLACK = (255, 0, 0), (0, 0, 255), (0, 255, 0), (0, 0, 0)


@pytest.mark.parametrize(
    ("image", "crop", "colours"),
    [
        (WIDE, "centre", {BLUE}),
        (TALL, "centre", {BLUE}),
        (WIDE, "top", {BLUE}),
        (TALL, "top", {RED}),
    ],
)
def test_crops_contain_no_pixels_from_outside(image, crop, colours):
    assert set(square(image, 32, crop).get_flattened_data()) == colours


def test_pad_and_stretch_keep_the_whole_image():
    for image in (WIDE, TALL):
        upright = np.asarray(square(image, 30, "pad"))
        upright = upright if image is WIDE else upright.transpose(1, 0, 2)
        assert (upright[:10] == BLACK).all()
        assert (upright[20:] == BLACK).all()
        assert [tuple(upright[15, x]) for x in (4, 15, 25)] == [RED, BLUE, GREEN]
        whole = np.asarray(square(image, 30, "stretch"))
        whole = whole if image is WIDE else whole.transpose(1, 0, 2)
        for y in (0, 15, 29):
            assert [tuple(whole[y, x]) for x in (4, 15, 25)] == [RED, BLUE, GREEN]


def test_resizing_is_antialiased():
    checkers = Image.fromarray((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8))
    for crop in ("centre", "top", "pad", "stretch"):
        # An antialiased average of 64 pixels and more, in 8 bits; picking pixels gives 0 or 255.
        assert np.abs(np.asarray(square(checkers, 32, crop)).astype(int) - 127).max() <= 3
