"""Seeded fuzzing of overrides, presets and small files: one line, at once, and nothing half-written.

`BIGGAN_FUZZ` is the number of inputs (`make fuzz` sets a large one) and `BIGGAN_FUZZ_SEED` the first seed; input k
depends on the seed and k alone, so a failure is repeated by its number.
"""

import os
import random
import re
import time
from pathlib import Path

import pytest
import torch

from biggan.config import Config
from biggan.config.preset import keys, resolve
from biggan.data.sources.labels import by_file
from biggan.data.sources.tree import Tree
from biggan.errors import StoppedRun
from biggan.importing.pickles import read_file

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
    }


def draws(share: float, kind: str):
    """Yield (number, generator) for this kind's share of the inputs."""
    for number in range(FIRST_SEED, FIRST_SEED + int(INPUTS * share)):
        yield number, random.Random(f"{kind} {number}")


def test_overrides(folder):
    for number, draw in draws(0.5, "override"):
        overrides = [override(draw) for _ in range(draw.randint(1, 2))]
        check(lambda given=overrides: expand(resolve(DIGITS, given), folder), f"override {number}: {overrides!r:.300}")


def test_presets(folder):
    preset, sound = folder / "preset.yaml", DIGITS.read_bytes()
    for number, draw in draws(0.3, "preset"):
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
