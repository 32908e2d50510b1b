"""Overrides and presets as users and fuzzers write them: text stays as it is, and bad values are one line at once."""

import time
from pathlib import Path

import pytest

from biggan.config import divisors
from biggan.config.preset import resolve
from biggan.config.yaml_text import MAX_BYTES, dump_yaml, load_yaml
from biggan.errors import InputError

DIGITS = Path(__file__).parents[1] / "configs" / "digits.yaml"
ODD_TEXTS = (
    "r/exp #2",
    "a: b",
    "[x]",
    "null",
    "1e5",
    "0100",
    "yes",
    "1:30",
    "'q'",
    " a ",
    "-",
    "é 日",
    "x?y%20",
    "2e-4",
)


def refusal(overrides=(), preset=DIGITS) -> str:
    """Return the one line that refuses a config, which it does in under a second."""
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        resolve(preset, overrides)
    assert time.monotonic() - start < 1
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    return message


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_overrides_of_text_and_paths_are_taken_as_they_stand_and_survive_the_saved_config(text, tmp_path):
    overrides = [f"{key}={text}" for key in ("run.dir", "data.path", "tracking.experiment", "init.from")]
    config = resolve(DIGITS, overrides)
    values = (config.run.dir, config.data.path, config.tracking.experiment, config.init.source)
    assert values == (Path(text), text, text, text)
    saved = tmp_path / "config.yaml"
    saved.write_text(config.to_yaml())
    assert resolve(saved) == config


def test_tilde_is_the_home_folder_in_overrides_presets_and_flags(tmp_path, monkeypatch, run_command):
    monkeypatch.setenv("HOME", str(tmp_path))
    preset = tmp_path / "home.yaml"
    preset.write_text(DIGITS.read_text().replace("path: data/digits", "path: ~/digits"))
    config = resolve(
        preset, ["run.dir=~/runs/a", "init.from=~/b@good", "evaluation.weights=~/w.pt", "evaluation.features=inception"]
    )
    assert config.data.path == f"{tmp_path}/digits"
    assert config.run.dir == tmp_path / "runs" / "a"
    assert (config.init.source, config.evaluation.weights) == (f"{tmp_path}/b@good", f"{tmp_path}/w.pt")
    code, output = run_command("train", "~/home.yaml", "--dry-run", "--calibration=~/none.json")
    assert (code, output.count("\n")) == (2, 1)
    assert f"{tmp_path}/none.json" in output


def test_a_path_that_still_starts_with_a_tilde_means_the_same_when_it_is_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = resolve(DIGITS, ["run.dir=./~/a"])
    assert config.run.dir == tmp_path / "~" / "a"


@pytest.mark.parametrize(
    "override",
    [
        "training.steps=!!int abc",
        "training.batch_size=0x7fffffffffffffffffff",
        "training.batch_size=1000000007",
        "model.channels=1000000000",
        "training.steps=0100",
        "training.steps=1:30",
        "training.steps=yes",
        "training.steps=2024-01-01",
        "training.steps=" + "9" * 5000,
        "training.compile=yes",
        "training.steps=&a [*a]",
        "checkpoint.max_gib=1e308",
        "run.dir=" + "a" * 5000,
        "run.dir=" + "a/" * 2500,
        "run.dir=",
        "run.dir=a\nb",
        "run.dir=\udcff",
        "data.path=" + "a" * 5000,
        "tracking.experiment=" + "a" * 5000,
        "model.g_attention=" + "[" * 10_000,
        "init.neighbours=[" + "a=b, " * 20_000 + "]",
        "x" * 100_000 + "=1",
    ],
    ids=lambda override: override[:30],
)
def test_a_hostile_override_is_one_line_that_starts_with_its_key(override):
    key = override.partition("=")[0]
    assert refusal([override]).startswith(f"{key[:100]}: ")


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijklmnopq", "bcdefghijklmnopqr", strict=True)
)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (BOMB, "aliases"),
        ("a: &a [*a]", "aliases"),
        ("a: " + "[" * 5000, "levels"),
        ("? " * 5000, "levels"),
        ("training: {steps: 1, steps: 2}", "'steps'"),
        ("run: {dir: a}\nrun: {dir: b}", "'run'"),
        ("[1]: 2", "key"),
        ("run: {dir: !!python/name:os.system x}", "tag"),
        ("run: {dir: !!str x}", "tag"),
        ('run: {dir: "a\\0b"}', "\\x00"),
        ('run: {dir: "\\ud800"}', "\\ud800"),
        ("a: " + "x" * MAX_BYTES, "longer"),
    ],
    ids=range(12),
)
def test_a_hostile_preset_is_one_line_with_its_name_and_reason(text, part, tmp_path):
    preset = tmp_path / "bad.yaml"
    preset.write_text(text)
    message = refusal(preset=preset)
    assert message.startswith(f"{preset}: ")
    assert part in message


def test_a_date_as_a_key_is_an_unknown_key(tmp_path):
    preset = tmp_path / "bad.yaml"
    preset.write_text(DIGITS.read_text() + "\n2024-01-01: {a: 1}\n")
    assert refusal(preset=preset).startswith("2024-01-01")


def test_scalars_are_those_of_this_dialect():
    document = (
        "[1, -2, +3, 2e-4, 1., .5, 1.5E3, .inf, true, False, null, ~, yes, 0100, 1:30, 0x1f, 0o7, 1_000, 2024-01-01]"
    )
    numbers = [1, -2, 3, 2e-4, 1.0, 0.5, 1500.0, float("inf"), True, False, None, None]
    assert load_yaml(document) == [*numbers, "yes", "0100", "1:30", "0x1f", "0o7", "1_000", "2024-01-01"]
    assert load_yaml(dump_yaml(list(ODD_TEXTS))) == list(ODD_TEXTS)


def test_divisors_are_found_without_counting_to_the_number():
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
    start = time.monotonic()
    assert divisors(1_000_000_007) == [1, 1_000_000_007]
    assert time.monotonic() - start < 0.5


def test_no_override_reaches_a_terminal_with_control_characters(run_command):
    code, output = run_command("train", str(DIGITS), "x\x1b[31my\x07=1", "--dry-run")
    assert (code, output.count("\n")) == (2, 1)
    assert "\x1b" not in output
