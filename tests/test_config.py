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
    "regularization": ["orthogonal"],
    "ema": ["decay", "start_step"],
    "checkpoint": ["every_steps", "keep_last"],
    "distributed": ["engine"],
}


def test_keys_other_programs_rely_on_exist():
    assert {f"{section}.{key}" for section, names in CONTRACT.items() for key in names} <= set(keys())


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_presets_resolve_and_their_yaml_reproduces_them(preset, tmp_path):
    config = resolve(preset)
    saved = tmp_path / "config.yaml"
    saved.write_text(config.to_yaml())
    assert resolve(saved) == config


def test_imagenet128_is_the_papers():
    config = resolve(CONFIGS / "imagenet128.yaml")
    m, t, o = config.model, config.training, config.optimizer
    assert (m.channels, m.z_dim, m.class_embedding_dim, m.g_attention, m.d_attention) == (96, 120, 128, (64,), (64,))
    assert (t.batch_size, t.d_steps, o.g_lr, o.d_lr, o.beta1, o.beta2) == (2048, 2, 5e-5, 2e-4, 0.0, 0.999)
    assert (config.regularization.orthogonal, config.ema.decay) == (1e-4, 0.9999)


def test_overrides_are_applied_in_order_and_typed():
    config = resolve(DIGITS, ["optimizer.g_lr=5e-5", "model.g_attention=[16]", "training.steps=3", "training.steps=7"])
    assert config.optimizer.g_lr == 5e-5
    assert config.model.g_attention == (16,)
    assert config.training.steps == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.depth=3", "model.depth: "),
        ("training.loss=wasserstein", "training.loss: should be 'hinge' or 'non_saturating'"),
        ("model.image_channels=4", "model.image_channels: should be 1 or 3"),
        ("training.stepz=3", "training.stepz: no such key; nearest: training.steps"),
        ("training.g_lr=1", "training.g_lr: no such key; nearest: optimizer.g_lr"),
        ("stepz=3", "stepz: no such key"),
        ("modle.channels=4", "modle.channels: no such key; nearest: model.channels"),
        ("training.steps.more=4", "training.steps.more: no such key; nearest: training.steps"),
        ("training.steps", "'training.steps': overrides are written key.sub=value"),
        ("training.steps=many", "training.steps: should be a valid integer, not 'many'"),
        ("training.steps=1.5", "training.steps: should be a valid integer"),
        ("training.steps=0", "training.steps: should be greater than 0, not 0"),
        ("training.precision=float16", "training.precision: should be 'auto', 'float32' or 'bfloat16', not 'float16'"),
        ("model.resolution=48", "model.resolution: should be 32, 64, 128, 256 or 512, not 48"),
        ("model.family=stylegan", "model.family: should be 'biggan' or 'biggan-deep', not 'stylegan'"),
        ("distributed.engine=horovod", "distributed.engine: should be 'ddp' or 'deepspeed', not 'horovod'"),
        ("optimizer.g_lr=.nan", "optimizer.g_lr: "),
        ("optimizer.g_lr=fast", "optimizer.g_lr: should be a valid number, not 'fast'"),
        ("ema.decay=1.0", "ema.decay: should be less than 1, not 1.0"),
        ("model.g_attention=[64]", "model.g_attention: a 32 px network has no 64 px features; it has 8, 16, 32 (near"),
        (
            "model.d_attention=[32]",
            "model.d_attention: a 32 px network has no 32 px features; it has 8, 16 (near",
        ),
        ("model.class_embedding_dim=0", "model.hierarchical_z: needs a shared class embedding"),
        ("model.z_dim=3", "model.z_dim: 3 is less than the 4 chunks"),
        ("training.accumulation=3", "training.accumulation: 3 does not divide training.batch_size 32; 2 or 4 would"),
        ("data.streams=5", "data.streams: 5 streams cannot fill a micro-batch of 32 evenly; 4 or 8 would"),
        ("data.path=", "data.path: string should have at least 1 character"),
    ],
)
def test_bad_values_get_one_line_naming_the_key(override, message):
    with pytest.raises(InputError) as error:
        resolve(DIGITS, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_preset_names_the_nearest():
    with pytest.raises(InputError, match=r"digit\.yaml: no such config; nearest: .*digits\.yaml"):
        resolve(CONFIGS / "digit.yaml")


def test_missing_keys_are_named(tmp_path):
    preset = tmp_path / "empty.yaml"
    preset.write_text("run: {dir: r}")
    with pytest.raises(InputError, match="data: missing"):
        resolve(preset)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1", "expected sections"), ("run: 3", "run: expected keys below it")],
)
def test_files_that_are_no_presets(tmp_path, text, message):
    preset = tmp_path / "bad.yaml"
    preset.write_text(text)
    with pytest.raises(InputError, match=message):
        resolve(preset)


@pytest.mark.parametrize(
    ("override", "processes", "message"),
    [
        (
            "data.streams=8",
            3,
            "training.batch_size: 32 does not divide over 3 processes with training.acc",
        ),
        (
            "training.batch_size=24",
            3,
            "data.streams: 8 streams do not divide over 3 processes; these would: 3, 6, 12",
        ),
        ("distributed.batchnorm_group_size=3", 4, "groups of 3 do not divide 4 processes; 2 or 4 would"),
    ],
)
def test_world_sizes_that_do_not_divide_are_refused_with_what_would(override, processes, message):
    with pytest.raises(InputError) as error:
        resolve(DIGITS, [override]).check_world_size(processes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("group", "before", "now", "message"),
    [
        (2, 4, 2, "batchnorm_group_size: .* 16 images.* 32.*distributed.batchnorm_group_size=1$"),
        (1, 2, 4, "batchnorm_group_size: .* 16 images.* 8.*distributed.batchnorm_group_size=2$"),
        (0, 4, 2, None),
        (2, 4, 4, None),
        (2, 8, 2, "batchnorm_group_size: .* 8 images.* 32; no group size keeps them$"),
    ],
)
def test_a_number_of_processes_that_changes_batchnorms_statistics_is_refused_with_what_keeps_them(
    group, before, now, message
):
    config = resolve(DIGITS, [f"distributed.batchnorm_group_size={group}"])
    images = statistics_images(config, before)
    if message is None:
        check_statistics(config, now, images)
    else:
        with pytest.raises(InputError, match=message):
            check_statistics(config, now, images)


def test_z_is_rounded_as_the_papers_code_does_and_said_so():
    config = resolve(DIGITS, ["model.z_dim=70"])
    assert config.model.effective_z_dim == 68
    assert config.notes() == ["model.z_dim: 70 is rounded down to 68, 4 chunks of 17"]


def test_the_tree_is_frozen():
    config = resolve(DIGITS)
    with pytest.raises(ValueError, match="frozen"):
        config.training.steps = 3
    assert isinstance(Config.model_validate_json(json.dumps(json.loads(config.model_dump_json()))), Config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hierarchical_z=false", "model.hierarchical_z: "),
        ("model.class_embedding_dim=0", "model.hierarchical_z: needs a shared class embedding"),
        ("model.residual=false", "model.residual: "),
        ("model.d_conv_shortcuts=widening", "model.d_conv_shortcuts: "),
        ("model.channels=6", "model.channels: "),
        ("model.d_channels=6", "model.d_channels: "),
    ],
)
def test_what_biggan_deep_cannot_be(override, message):
    with pytest.raises(InputError, match=message):
        resolve(CONFIGS / "imagenet128-deep.yaml", [override])
