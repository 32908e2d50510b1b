"""Every preset builds networks of the known sizes, says what it costs, and trains."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import weights
from typer.testing import CliRunner

from biggan.cli.program import app
from biggan.config.preset import resolve
from biggan.cost import estimate
from biggan.cost.scaling import GradientReady
from biggan.cost.trace import record
from biggan.data.pack import Plan, start_packing
from biggan.data.sources.selection import SelectionRequest
from biggan.startup.checks import parameter_counts

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = sorted(CONFIGS.glob("*.yaml"))
COUNTS = {
    # The reference PyTorch code (128 px, and deep) and compare_gan's tests (256 and 512 px): REFERENCE.md.
    "imagenet128": (70_433_988, 87_982_370),
    "imagenet256": (82_097_604, 98_635_298),
    "imagenet512": (82_468_068, 98_801_378),
    "imagenet128-deep": (50_244_484, 34_590_210),
    # What no publication has: widths may not change unseen.
    "imagenet256-deep": (55_736_708, 38_247_426),
    "imagenet512-deep": (56_019_780, 38_301_122),
    "imagenet64": (70_222_212, 45_511_970),
    "imagenet128-sagan": (42_078_852, 39_463_618),
    "imagenet128-sngan": (41_996_931, 39_443_137),
    "cifar10": (4_304_387, 4_207_361),
    "cifar10-sngan": (4_304_387, 1_055_105),
    "cifar10-dcgan": (2_192_899, 1_777_665),
    "digits": (101_379, 67_169),
}

ARCHITECTURES = [
    "imagenet64",
    "imagenet128-deep",
    "imagenet128-sagan",
    "imagenet128-sngan",
    "cifar10",
    "cifar10-sngan",
    "cifar10-dcgan",
    "digits",
]
"""The other presets are the first two with more blocks."""


def command(*arguments) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_one_table_has_the_parameters_of_every_preset(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # a pipe's width
    table = command("parameters", *PRESETS)
    rows = [line.strip("│\n ").split("│") for line in table.splitlines() if "│" in line]
    found = {cells[0].strip(): tuple(int(c.replace(",", "")) for c in cells[-2:]) for cells in rows}
    assert found == COUNTS


def test_more_blocks_a_stage_are_so_many_more_parameters():
    def counts(*overrides):
        return np.array(parameter_counts(resolve(CONFIGS / "imagenet128-deep.yaml", overrides).model))

    two = counts()
    assert (counts("model.depth=4") - two == 2 * (counts("model.depth=3") - two)).all()
    g_added, d_added = counts("model.d_depth=3") - two
    assert g_added == 0 < d_added


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_every_preset_dry_runs_and_every_weight_has_a_gradient(preset, monkeypatch):
    """A dry run records the real step at the preset's own width, resolution and batch, on tensors without storage."""
    traces = []
    monkeypatch.setattr(estimate, "record", lambda *arguments: traces.append(record(*arguments)) or traces[-1])
    assert "generator parameters" in command("train", preset, "--dry-run")
    (trace,) = traces
    ready = [sum(e.bytes for e in step.events if isinstance(e, GradientReady)) for step in trace.steps if step.boundary]
    g_parameters, d_parameters = COUNTS[preset.stem]
    assert ready == [4 * d_parameters, 4 * g_parameters]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of two classes of noise."""
    folder, random = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for k in range(8):
        (folder / str(k % 2)).mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / str(k % 2) / f"{k}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_of_the_presets_trains(name, images, tmp_path):
    """At up to 64 px, where those of 128 px and more differ from others in their number of blocks alone."""
    preset = CONFIGS / f"{name}.yaml"
    model = resolve(preset).model
    resolution = min(64, model.resolution)
    source = images / "0" if model.classes == 1 else images
    start_packing(Plan(SelectionRequest((str(source),)), resolution, shards=4), tmp_path / "data").run(
        0, lambda _: None
    )
    tiny = [
        f"run.dir={tmp_path / 'run'}", f"data.path={tmp_path / 'data'}", "data.streams=2", "data.workers=0",
        "model.channels=4", f"model.classes={min(2, model.classes)}", "training.steps=1", "training.batch_size=4",
        "samples.per_class=1", "tracking.mlflow=false", f"model.resolution={resolution}", "ema.start_step=0",
    ]  # fmt: skip
    if model.d_channels:
        tiny.append("model.d_channels=4")
    if resolution < model.resolution:
        tiny += [f"model.{network}_attention={[32] if attention else []}" for network, attention in
                 (("g", model.g_attention), ("d", model.d_attention))]  # fmt: skip
    command("train", preset, *tiny)
    saved = weights(tmp_path / "run/checkpoints/step_00000001")
    assert all(tensor.isfinite().all() for tensor in saved.values())
    for network in "gd":  # every convolution was given a gradient; attention's stays 0 until its gain has moved
        moments = {k: v for k, v in saved.items() if k.startswith(f"{network}_optimizer/") and "conv" in k}
        squares = [v for k, v in moments.items() if k.endswith("weight/exp_avg_sq")]
        assert squares
        assert all(square.sum() > 0 for square in squares)
