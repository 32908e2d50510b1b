"""Hostile shards: what a header or an image claims decides neither what is read nor what is run."""

import gzip
import io
import tarfile

import numpy as np
import pytest
import reads
from PIL import Image

from biggan.data.dataset import load
from biggan.data.loader import Loader
from biggan.data.stream import START
from biggan.errors import DataError
from biggan.files import sha256_of


def png(size=32, colour=0):
    out = io.BytesIO()
    Image.new("RGB", (size, size), (colour, 0, 0)).save(out, "PNG")
    return out.getvalue()


def member(name, content, size=None):
    """Return a header and its data; the header may claim another size."""
    info = tarfile.TarInfo("x")
    info.size = len(content) if size is None else size
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))  # sizes above 8 GiB in base 256
    header[: len(name)] = name
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


@pytest.fixture
def shard(tmp_path, digits):
    """Return a function that writes the only shard of a data set, of `images` images, and reads it as training does."""
    description = load(digits)

    def read(content, images=4, batches=1, max_bad_samples=100):
        file = tmp_path / "train-00000.tar"
        file.write_bytes(content + bytes(20 * 512))
        one = (
            description.splits["train"]
            .shards[0]
            .model_copy(
                update={"name": file.name, "images": images, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
            )
        )
        plan = reads.plan(
            digits, root=str(tmp_path), shards=(one,), streams=1, shuffle_buffer=1, max_bad_samples=max_bad_samples
        )
        loader = Loader(plan, micro_batch_size=1, cursors=[START], rank=0, world_size=1, workers=0)
        names = [loader.names[0] for _ in zip(range(batches), loader, strict=False)]
        return names, loader.bad

    return read


SOUND = member(b"0.png", png()) + member(b"0.cls", b"7")


@pytest.mark.parametrize("size", [2**40, 2**63, -1, 65 * 2**20])
@pytest.mark.parametrize("name", [b"1.png", b"1.txt", b"1.cls"])
def test_a_header_that_claims_too_much_ends_the_shard(shard, name, size):
    names, bad = shard(SOUND + member(name, b"data", size), images=2, batches=3)
    assert set(names) == {"train-00000.tar/0"}
    (reason,) = bad.values()
    assert reason.startswith("ReadError: ")
    assert str(size) in reason


def test_no_more_is_asked_of_a_file_than_the_bound():
    """Here of one that never ends."""
    from biggan.data.tar_members import MAX_BYTES, tar_members  # noqa: PLC0415  (what it tests is new)

    class Endless(io.RawIOBase):
        most, start = 0, io.BytesIO(SOUND + member(b"1.png", b"", 2**40))

        def read(self, size=-1):
            self.most = max(self.most, size)
            return self.start.read(size).ljust(size, b"0")

    stream = Endless()
    with pytest.raises(tarfile.ReadError, match=str(2**40)):
        list(tar_members(stream))
    assert 0 < stream.most <= MAX_BYTES


def test_names_of_any_bytes_are_read_and_printable(shard):
    """Flips are keyed by the name."""
    odd = [b"\xff\xfe\x80.", b"a\nb.", b"../../x.", b"/etc/x.", b"-."]
    content = b"".join(member(name + b"png", png()) + member(name + b"cls", b"1") for name in odd)
    names, bad = shard(content, images=len(odd), batches=len(odd))
    assert bad == {}
    assert len(names) == len(odd)
    for name in names:
        name.encode()


def test_other_members_are_skipped(shard):
    """As webdataset's own writer makes them: extended headers with fractions of seconds."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (("folder", None), ("0.png", png()), ("0.txt", b"a caption"), ("0.cls", b"7")):
            info = tarfile.TarInfo(name)
            info.mtime = 0.5
            if content is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(content)
            tar.addfile(info, None if content is None else io.BytesIO(content))
    assert shard(out.getvalue(), images=1) == (["train-00000.tar/0"], {})


def test_compressed_shards_are_refused(shard):
    """A few kilobytes could hold terabytes."""
    with pytest.raises(DataError, match=r"train-00000\.tar: .*not a tar"):
        shard(gzip.compress(SOUND))


def test_an_image_of_another_size_is_not_decoded(shard, monkeypatch):
    decoded = []
    original = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, *a: decoded.append(self.size) or original(self, *a))
    large = member(b"1.png", png(3000)) + member(b"1.cls", b"7")
    names, bad = shard(SOUND + large, images=2, batches=3)
    assert len(names) == 3
    assert "(3000, 3000)" in bad["train-00000.tar/1"]
    assert set(decoded) == {(32, 32)}


def test_an_image_in_another_format_is_not_opened(shard):
    out = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(out, "TIFF")
    names, bad = shard(SOUND + member(b"1.png", out.getvalue()) + member(b"1.cls", b"7"), images=2, batches=3)
    assert len(names) == 3
    assert list(bad) == ["train-00000.tar/1"]


def test_labels_that_are_no_class_are_bad_samples(shard):
    wrong = [b"10", b"-1", b"", b"seven", b"9" * 5000, b"\xff"]
    content = b"".join(member(b"%d.png" % k, png()) + member(b"%d.cls" % k, label) for k, label in enumerate(wrong, 1))
    names, bad = shard(SOUND + content, images=1 + len(wrong), batches=2)
    assert len(names) == 2
    assert len(bad) == len(wrong)
