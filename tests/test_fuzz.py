"""Seeded fuzzing of overrides, presets, small files and shards: one line, at once, and nothing half-written.

`BIGGAN_FUZZ` is the number of inputs (`make fuzz` sets a large one) and `BIGGAN_FUZZ_SEED` the first seed; input k
depends on the seed and k alone, so a failure is repeated by its number.
"""

import json
import os
import random
import re
import tarfile
import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image

from biggan.config import Config
from biggan.config.preset import keys, resolve
from biggan.data import pack as packing
from biggan.data import preview
from biggan.data.dataset import load
from biggan.data.loader import Loader
from biggan.data.pack import start_packing
from biggan.data.sources.image_source import ImageSource
from biggan.data.sources.labels import by_file
from biggan.data.sources.selection import SelectionRequest
from biggan.data.sources.tree import Tree
from biggan.data.stream import START, ReadPlan
from biggan.distributed.process import Process
from biggan.errors import StoppedRun
from biggan.importing.pickles import read_file
from biggan.progress import silent

INPUTS = int(os.environ.get("BIGGAN_FUZZ", "2000"))
FIRST_SEED = int(os.environ.get("BIGGAN_FUZZ_SEED", "0"))
MAX_SECONDS = 5
DIGITS = Path(__file__).parents[1] / "configs" / "digits.yaml"
SCALARS = [
    "", "0", "-1", "1", "7", "1e400", "-0.0", ".nan", "-.inf", "1e-400", "0x7fffffffffffffffffff", "0100", "1:30",
    "yes", "true", "null", "~", "~/x", "~nobody", "2024-01-01", "1000000007", "999999999", "9" * 30, "9" * 5000,
    "!!int abc", "!!python/object/apply:os.system [touch hacked]", "&a [*a]", "*a", "<<: 1", "[16]", "[16, 16]",
    "[[16]]", "{a: 1}", "[", "]", "{", "'", '"', '"\\ud800"', '"\\0"', "a\nb", "\x1b[31m", "\udcff", "\u2028", "é",
    "a" * 5000, "/" * 5000, "a/" * 3000, "../../x", "-", "- 1", "?", ":", "#", "%", "| x", "> x", "@", "`", "\t", " ",
    "x0.5", "x0", "x1e400", "xx2", "{linear: {0: 0, 9: 1e-3}}", "{step: {0: 1e-3, 9: .nan}}", "{cosine: {-1: 1}}",
    "{optimizer.g_lr: x2}", "{objective: {r1: {gamma: 1}}}",
    "[" * 3000, "{a: " * 3000, "https://user:pa55word@host/x?token=pa55word", "pipe:touch hacked",
]  # fmt: skip


def check(act, describe):
    """Run `act()`; fail unless it succeeds, or raises one line with an exit code, in MAX_SECONDS."""
    start = time.monotonic()
    try:
        act()
    except StoppedRun as error:
        message = str(error)
        assert message.isprintable() or message.replace("\u00a0", "").isprintable(), describe
        assert 0 < len(message) < 6000, describe
        assert not re.search(":/{1,3}user:pa55word@", message), describe
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error!s:.300}: {describe}") from error
    assert time.monotonic() - start < MAX_SECONDS, describe


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return the bytes with a few of them flipped, removed, repeated or cut off."""
    for _ in range(draw.randint(1, 4)):
        if not data:
            break
        at, length = draw.randrange(len(data)), draw.randint(1, 40)
        data = draw.choice([
            data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :],
            data[:at] + data[at + length :],
            data[:at] + data[at : at + length] * 2 + data[at + length :],
            data[:at],
            data[:at] + draw.choice(SCALARS).encode(errors="surrogateescape") + data[at:],
        ])  # fmt: skip
    return data


def override(draw: random.Random) -> str:
    """Return an override: mostly of a known key, by any text."""
    key = draw.choice([*keys(), *keys(), "x", "", "run", "run.dir.x", "objective", "objective.r1", "a" * 300])
    key = draw.choice(["", "", "", "rollback.", "intervention."]) + key
    value = draw.choice(
        [draw.choice(SCALARS), mutated(draw.choice(SCALARS).encode(errors="replace"), draw).decode(errors="replace")]
    )
    return draw.choice([f"{key}={value}", f"{key}={value}", f"{key}={value}", key, f"{key}=={value}"])


def tree(draw: random.Random, depth: int = 0) -> str:
    """Return YAML of sections, keys and values that hardly belong together, in flow style."""
    if depth > draw.randint(0, 4):
        return draw.choice(SCALARS)
    parts = {part for key in keys() for part in [key, *key.split(".")]}
    known = sorted(parts if depth else Config.model_fields)
    pairs = [f"{draw.choice([*known, *SCALARS[:20]])}: {tree(draw, depth + 1)}" for _ in range(draw.randint(0, 4))]
    return "{" + ", ".join(pairs) + "}"


def expand(resolved: Config, folder: Path):
    """Check that a config that was accepted is saved as one that is equal."""
    saved = folder / "saved.yaml"
    saved.write_text(resolved.to_yaml())
    assert resolve(saved) == resolved


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory, which must hold only what the test itself wrote when it ends."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} <= {
        "saved.yaml",
        "preset.yaml",
        "file.pth",
        "labels.csv",
        "labels.json",
        "set",
    }


def draws(share: float, kind: str):
    """Yield (number, generator) for this kind's share of the inputs."""
    for number in range(FIRST_SEED, FIRST_SEED + int(INPUTS * share)):
        yield number, random.Random(f"{kind} {number}")


def test_overrides(folder):
    for number, draw in draws(0.4, "override"):
        overrides = [override(draw) for _ in range(draw.randint(1, 2))]
        check(lambda given=overrides: expand(resolve(DIGITS, given), folder), f"override {number}: {overrides!r:.300}")


def test_presets(folder):
    preset, sound = folder / "preset.yaml", DIGITS.read_bytes()
    for number, draw in draws(0.2, "preset"):
        content = mutated(sound, draw) if draw.random() < 0.6 else tree(draw).encode(errors="surrogateescape")
        preset.write_bytes(content)
        check(lambda: expand(resolve(preset), folder), f"preset {number}: {content!r:.300}")


def test_checkpoints_of_other_programs_are_refused_when_damaged(folder):
    file = folder / "file.pth"
    torch.save({"linear.weight": torch.arange(64.0), "step": 3}, file)
    sound = file.read_bytes()
    expected = read_file(file)
    for number, draw in draws(0.1, "pth"):
        file.write_bytes(mutated(sound, draw))

        def read():
            contents = read_file(file)  # a flip in what a zip does not use changes nothing
            assert torch.equal(contents["linear.weight"], expected["linear.weight"])
            assert contents["step"] == 3

        check(read, f"pth {number}")


def test_label_files(folder):
    tree = Tree("images", ["a/1.png", "b/2.png"], lambda _: b"")
    kinds = {
        "labels.csv": b'path,label\na/1.png,"cat, small"\nb/2.png,dog\n',
        "labels.json": b'{"labels": [["a/1.png", 0], ["b/2.png", 10]]}',
    }
    for number, draw in draws(0.1, "labels"):
        name, sound = draw.choice(list(kinds.items()))
        (folder / name).write_bytes(mutated(sound, draw))
        check(lambda name=name: by_file(tree, name), f"labels {number}")


@pytest.fixture
def packed(folder):
    """A data set of 8 images in 2 shards, and (labels, pixels) of its samples by shard and key."""
    tensor, labels = torch.arange(8 * 3 * 8 * 8, dtype=torch.uint8).reshape(8, 8, 8, 3).numpy(), [0, 1] * 4
    source = ImageSource(["ant", "bee"], [f"{k}.png" for k in range(8)], labels, lambda k: Image.fromarray(tensor[k]))
    selection = SelectionRequest(("fuzz",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "open_selection", lambda _: source)
        start_packing(packing.Plan(selection, 8, shards=2), folder / "set").run(1, lambda _: None)
    return folder / "set"


def read_all(folder: Path) -> list[tuple]:
    """Return the name, label and pixels of every sample that can be read, after the checks of every command."""
    from biggan.data.verification import verified  # noqa: PLC0415  (so that the other tests can run on earlier versions)

    dataset = load(folder)
    alone = Process(rank=0, world_size=1, device=torch.device("cpu"), group=None)
    dataset = verified(str(folder), dataset, set(dataset.verified), alone, silent)
    return [(s.name, s.label, s.image.tobytes()) for s in preview.readable_samples(dataset, str(folder), "train")]


def test_dataset_json(packed):
    """An accepted description gives no sample that the shards do not hold."""
    file, sound, expected = packed / "dataset.json", (packed / "dataset.json").read_bytes(), read_all(packed)
    values = [0, -1, 1, 10**12, 10**400, 0.5, True, None, "", [], {}, *SCALARS]
    for number, draw in draws(0.1, "dataset"):
        content = mutated(sound, draw)
        if draw.random() < 0.5:
            content = json.dumps(altered(json.loads(sound), draw, values)).encode(errors="surrogatepass")
        file.write_bytes(content)

        def read():
            samples = read_all(packed)
            kept = [sample for sample in expected if sample in samples]
            assert len(kept) == len(samples), "a sample that is not in the shards"

        check(read, f"dataset {number}: {content!r:.300}")


def altered(tree, draw: random.Random, values: list):
    """Return the tree with one of its values, or of those within them, replaced or removed."""
    if not isinstance(tree, dict | list) or not tree or draw.random() < 0.15:
        return draw.choice(values)
    key = draw.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
    if draw.random() < 0.1:
        del tree[key]
    else:
        tree[key] = altered(tree[key], draw, values)
    return tree


def hostile_member(draw: random.Random) -> bytes:
    """Return a tar header, mostly with a wrong size, type or name, and some data."""
    content = draw.choice(
        [b"", b"0", b"1", b"9" * 5000, b"-1", b"\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", draw.randbytes(600)]
    )
    info = tarfile.TarInfo(
        draw.choice(["0.png", "0.cls", "1.jpg", "a" * 90 + ".png", "../x.png", "/x.cls", ".", "__x__.png", "x"])
    )
    info.type = draw.choice(
        [b"0", b"0", b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S", b"V", b"\xff"]
    )
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    size = draw.choice(
        [b"%011o\0" % len(content)] * 3
        + [b"%011o\0" % 2**32, b"777777777777", b"\x80" + bytes(6) + b"\1" + bytes(4), b"\xff" * 12, b"abcdefghijkl"]
    )
    header[124:136] = size
    if draw.random() < 0.2:
        header[0:8] = draw.randbytes(8)
    if draw.random() < 0.9:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


def test_shards(packed):
    """Damage is refused. A hostile shard that agrees with its dataset.json gives whole samples or one line."""
    file, text = packed / "train-00000.tar", (packed / "dataset.json").read_text()
    sound, expected = file.read_bytes(), read_all(packed)
    for number, draw in draws(0.1, "shard"):
        content = mutated(sound, draw)
        if draw.random() < 0.5:
            at = 512 * draw.randrange(len(sound) // 512)
            content = sound[:at] + b"".join(hostile_member(draw) for _ in range(draw.randint(1, 4))) + sound[at:]
        file.write_bytes(content)

        def refused(content=content):
            if content != sound:
                with pytest.raises(StoppedRun):
                    read_all(packed)

        def read():
            assert all(len(pixels) == 8 * 8 * 3 and label in (0, 1) for _, label, pixels in read_all(packed))
            preview.check_counts(load(packed), str(packed), silent)

        def train(seed=number):
            plan = ReadPlan(str(packed), load(packed).splits["train"].shards, 8, 3, 2, 2, 3, True, seed, 20)
            loader = Loader(plan, micro_batch_size=2, cursors=[START] * 2, rank=0, world_size=1, workers=0)
            for _ in range(6):
                next(loader)

        (packed / "dataset.json").write_text(text)
        check(refused, f"shard {number}: damage accepted")
        described = text.replace(sha256(sound).hexdigest(), sha256(content).hexdigest())
        described = described.replace(f'"bytes": {len(sound)}', f'"bytes": {len(content)}', 1)
        (packed / "dataset.json").write_text(described)
        check(read, f"shard {number}")
        check(train, f"shard {number}")
    (packed / "dataset.json").write_text(text)
    file.write_bytes(sound)
    assert read_all(packed) == expected
