import json
from pathlib import Path

import pytest

from biggan.config import Config
from biggan.config.preset import keys, resolve
from biggan.errors import InputError
from biggan.startup.checks import check_statistics, statistics_images

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = sorted(CONFIGS.glob("*.yaml"))
DIGITS = CONFIGS / "digits.yaml"

CONTRACT = {
    "run": ["dir", "seed"],
    "data": ["path", "streams"],
    "model": ["family", "resolution", "channels"],
    "training": ["steps", "batch_size", "d_steps", "accumulation", "precision", "compile"],
    "optimizer": ["g_lr", "d_lr"],
    "objective": ["loss", "orthogonal"],
    "ema": ["decay", "start_step"],
    "checkpoint": ["every_steps", "keep_last"],
    "distributed": ["engine"],
}


def test_config_has_all_contract_keys():
    assert {f"{section}.{key}" for section, names in CONTRACT.items() for key in names} <= set(keys())


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_presets_resolve_and_their_yaml_resolves_to_an_equal_config(preset, tmp_path):
    config = resolve(preset)
    saved = tmp_path / "config.yaml"
    saved.write_text(config.to_yaml())
    assert resolve(saved) == config


def test_imagenet128_preset_has_the_settings_of_the_paper():
    config = resolve(CONFIGS / "imagenet128.yaml")
    m, t, o = config.model, config.training, config.optimizer
    assert (m.channels, m.z_dim, m.class_embedding_dim, m.g_attention, m.d_attention) == (96, 120, 128, (64,), (64,))
    assert (t.batch_size, t.d_steps, o.g_lr, o.d_lr, o.beta1, o.beta2) == (2048, 2, 5e-5, 2e-4, 0.0, 0.999)
    assert (config.objective.orthogonal, config.ema.decay) == (1e-4, 0.9999)


def test_overrides_apply_in_order_and_have_yaml_types():
    steps = ["training.steps=3", "training.steps=7"]
    config = resolve(DIGITS, ["optimizer.g_lr=5e-5", "model.g_attention=[16]", "objective.r1.gamma=2", *steps])
    assert config.optimizer.g_lr == 5e-5
    assert config.objective.r1.gamma == 2.0
    assert config.model.g_attention == (16,)
    assert config.training.steps == 7


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("model.depth=3", ["model.depth: "]),
        ("objective.loss=wgan", ["objective.loss: ", "'hinge'", "'wasserstein'", "not 'wgan'"]),
        ("objective.r1=3", ["objective.r1: ", "nearest: objective.r1.gamma"]),
        ("objective.r1.gama=3", ["objective.r1.gama: ", "nearest: objective.r1.gamma"]),
        ("objective.r1.gamma=-3", ["objective.r1.gamma: ", "at least 0", "not -3"]),
        ("objective.augment=[colour]", ["objective.augment.0: ", "'color'", "not 'colour'"]),
        ("model.image_channels=4", ["model.image_channels: ", "1 or 3", "4"]),
        ("training.stepz=3", ["training.stepz: ", "training.steps"]),
        ("training.g_lr=1", ["training.g_lr: ", "optimizer.g_lr"]),
        ("stepz=3", ["stepz: "]),
        ("modle.channels=4", ["modle.channels: ", "model.channels"]),
        ("training.steps.more=4", ["training.steps.more: ", "nearest: training.steps"]),
        ("training.steps", ["'training.steps': ", "key.sub=value"]),
        ("training.steps=many", ["training.steps: ", "integer", "'many'"]),
        ("training.steps=1.5", ["training.steps: ", "integer", "1.5"]),
        ("training.steps=0", ["training.steps: ", "greater than 0, not 0"]),
        ("training.precision=float16", ["training.precision: ", "'auto', 'float32' or 'bfloat16', not 'float16'"]),
        ("model.resolution=48", ["model.resolution: ", "32, 64, 128, 256 or 512, not 48"]),
        ("model.family=stylegan", ["model.family: ", "'biggan' or 'biggan-deep', not 'stylegan'"]),
        ("distributed.engine=horovod", ["distributed.engine: ", "'ddp' or 'deepspeed', not 'horovod'"]),
        ("optimizer.g_lr=.nan", ["optimizer.g_lr: "]),
        ("optimizer.g_lr=fast", ["optimizer.g_lr: ", "number", "'fast'"]),
        ("optimizer.g_lr=0", ["optimizer.g_lr: ", "greater than 0", "not 0"]),
        ("optimizer.g_lr={linear: {0: 1e-4, 9: 2}}", ["optimizer.g_lr: ", "at most 1", "not 2"]),
        ("optimizer.g_lr={line: {0: 1e-4, 9: 1}}", ["optimizer.g_lr: ", "'linear', 'cosine' or 'step'", "not 'line'"]),
        ("optimizer.g_lr={linear: {0: 1e-4}}", ["optimizer.g_lr: ", "linear"]),
        ("ema.decay=1.0", ["ema.decay: ", "less than 1, not 1.0"]),
        ("model.g_attention=[64]", ["model.g_attention: ", "64 px", "8, 16, 32", "nearest: 32"]),
        ("model.d_attention=[32]", ["model.d_attention: ", "32 px", "8, 16", "nearest: 16"]),
        ("model.class_embedding_dim=0", ["model.hierarchical_z: ", "model.class_embedding_dim"]),
        ("model.z_dim=3", ["model.z_dim: 3 ", "at least 4"]),
        ("training.accumulation=3", ["training.accumulation: 3 ", "training.batch_size 32", "2 or 4"]),
        ("data.streams=5", ["data.streams: 5 ", "32", "4 or 8"]),
        ("data.path=", ["data.path: ", "empty"]),
    ],
)
def test_an_invalid_value_gives_one_line_with_the_key(override, parts):
    with pytest.raises(InputError) as error:
        resolve(DIGITS, [override])
    message = str(error.value)
    assert message.startswith(parts[0])
    assert all(part in message for part in parts)
    assert "\n" not in message


def test_a_missing_preset_gives_the_nearest_file():
    with pytest.raises(InputError, match=r"digit\.yaml: .*digits\.yaml"):
        resolve(CONFIGS / "digit.yaml")


def test_a_missing_section_gives_its_key(tmp_path):
    preset = tmp_path / "empty.yaml"
    preset.write_text("run: {dir: r}")
    with pytest.raises(InputError, match=r"^data: "):
        resolve(preset)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", r"bad\.yaml: .*YAML"), ("- 1", r"bad\.yaml: .*list"), ("run: 3", "^run: .*3")],
)
def test_a_file_that_is_not_a_preset_is_refused(tmp_path, text, message):
    preset = tmp_path / "bad.yaml"
    preset.write_text(text)
    with pytest.raises(InputError, match=message):
        resolve(preset)


@pytest.mark.parametrize(
    ("override", "processes", "parts"),
    [
        ("data.streams=8", 3, ["training.batch_size: 32 ", "3 processes", "training.accumulation=1", "30 or 33"]),
        ("training.batch_size=24", 3, ["data.streams: 8 ", "3 processes", "3, 6, 12"]),
        ("distributed.batchnorm_group_size=3", 4, ["distributed.batchnorm_group_size: 3 ", "4 processes", "2 or 4"]),
    ],
)
def test_a_world_size_that_does_not_divide_is_refused_with_valid_values(override, processes, parts):
    with pytest.raises(InputError) as error:
        resolve(DIGITS, [override]).check_world_size(processes)
    assert str(error.value).startswith(parts[0])
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("group", "before", "now", "message"),
    [
        (2, 4, 2, r"\b16 images.*\b32\b.*distributed\.batchnorm_group_size=1"),
        (1, 2, 4, r"\b16 images.*\b8\b.*distributed\.batchnorm_group_size=2"),
        (0, 4, 2, None),
        (2, 4, 4, None),
        (2, 8, 2, r"\b8 images.*\b32\b(?!.*_size=\d)"),
    ],
)
def test_a_number_of_processes_that_changes_batchnorm_statistics_is_refused_with_the_group_size_that_keeps_them(
    group, before, now, message
):
    config = resolve(DIGITS, [f"distributed.batchnorm_group_size={group}"])
    images = statistics_images(config, before)
    if message is None:
        check_statistics(config, now, images)
    else:
        with pytest.raises(InputError, match=message):
            check_statistics(config, now, images)


def test_z_dim_is_rounded_down_to_a_multiple_of_the_chunks_with_a_note():
    config = resolve(DIGITS, ["model.z_dim=70"])
    assert config.model.effective_z_dim == 68
    (note,) = config.notes()
    assert note.startswith("model.z_dim: 70 ")
    assert all(number in note for number in ("68", "4 chunks", "17"))


def test_the_config_is_frozen():
    config = resolve(DIGITS)
    with pytest.raises(ValueError, match="frozen"):
        config.training.steps = 3
    assert isinstance(Config.model_validate_json(json.dumps(json.loads(config.model_dump_json()))), Config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hierarchical_z=false", "model.hierarchical_z: "),
        ("model.class_embedding_dim=0", "^model.hierarchical_z: .*model.class_embedding_dim"),
        ("model.residual=false", "model.residual: "),
        ("model.d_conv_shortcuts=widening", "model.d_conv_shortcuts: "),
        ("model.channels=6", "model.channels: "),
        ("model.d_channels=6", "model.d_channels: "),
    ],
)
def test_settings_that_biggan_deep_does_not_have_are_refused(override, message):
    with pytest.raises(InputError, match=message):
        resolve(CONFIGS / "imagenet128-deep.yaml", [override])
