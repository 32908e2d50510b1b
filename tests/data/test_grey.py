"""Data sets of one channel, from packing to batches, previews, evaluation and export."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
from packs import pictures, plan, raises_input_error, run, samples
from runs import TINY, biggan, weights

from biggan import load_generator
from biggan.data.dataset import check_trainable, load
from biggan.data.loader import Loader
from biggan.data.preview import first_images, first_of_each_class
from biggan.data.stream import START, ReadPlan
from biggan.errors import InputError
from biggan.evaluation.reference_statistics import RealSplit


@pytest.fixture
def grey(tmp_path):
    run(plan(pictures(tmp_path / "p"), channels=1), tmp_path / "grey")
    return tmp_path / "grey"


def test_pixels_are_the_luma_of_the_colour_pack(grey, tmp_path):
    run(plan(tmp_path / "p"), tmp_path / "colour")
    assert load(grey).channels == 1
    assert load(tmp_path / "colour").channels == 3
    colours = samples(tmp_path / "colour")
    for key, (label, pixels) in samples(grey).items():
        assert pixels.shape == (32, 32)
        assert label == colours[key][0]
        # Conversion to grey precedes resizing, so rounding and clipping of Lanczos's overshoot differ.
        assert np.abs(colours[key][1] @ (0.299, 0.587, 0.114) - pixels).mean() < 3


def test_loader_returns_one_channel(grey):
    dataset = load(grey)
    the_plan = ReadPlan(
        root=str(grey), shards=dataset.splits["train"].shards, resolution=32, channels=1, classes=2, streams=2,
        shuffle_buffer=5, horizontal_flip=True, seed=0, max_bad_samples=0,
    )  # fmt: skip
    loader = Loader(the_plan, micro_batch_size=4, cursors=[START] * 2, rank=0, world_size=1, workers=0)
    packed = samples(grey)
    for images, labels in islice(loader, 5):
        assert (images.dtype, images.shape) == (torch.uint8, (4, 1, 32, 32))
        for image, label, name in zip(images.numpy(), labels, loader.names, strict=True):
            expected_label, pixels = packed[name.split("/")[1]]
            assert label == expected_label
            assert np.array_equal(image[0], pixels) or np.array_equal(image[0], pixels[:, ::-1])


def test_previews_and_evaluation_repeat_the_grey_channel(grey):
    dataset = load(grey)
    images, labels = first_images(dataset, str(grey), "train", 100)
    assert images.shape == (12, 1, 32, 32)
    rows, _ = first_of_each_class(dataset, str(grey), per_class=7, max_classes=5)
    assert rows.shape == (2, 7, 32, 32, 3)
    assert np.array_equal(rows[0, 0], images[labels == 0][0, 0].numpy()[..., None].repeat(3, -1))
    assert (rows[:, 6] == 255).all()
    real = torch.cat([batch for shard in range(2) for _, batch, _ in RealSplit(dataset, str(grey)).batches(shard)])
    assert torch.equal(real, images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3))


def test_networks_with_other_channels_are_refused(grey, tmp_path):
    sizes = {"classes": 2, "resolution": 32, "streams": 1}
    assert check_trainable(load(grey), **sizes, image_channels=1) == []
    with raises_input_error("model.image_channels: 3", "model.image_channels=1", "without --grey"):
        check_trainable(load(grey), **sizes, image_channels=3)
    run(plan(tmp_path / "p"), tmp_path / "colour")
    with raises_input_error("model.image_channels: 1", "model.image_channels=3", "with --grey"):
        check_trainable(load(tmp_path / "colour"), **sizes, image_channels=1)


def test_dataset_json_without_channels_means_three(tmp_path):
    run(plan(pictures(tmp_path / "p")), tmp_path / "d")
    file = tmp_path / "d" / "dataset.json"
    content = json.loads(file.read_text())
    del content["channels"], content["balanced"], content["preprocessing"]["colour"]
    file.write_text(json.dumps(content))
    assert (load(tmp_path / "d").channels, load(tmp_path / "d").balanced) == (3, False)
    file.write_text(json.dumps(content | {"channels": 2}))
    with pytest.raises(InputError, match=r"dataset\.json: channels: "):
        load(tmp_path / "d")


def test_grey_run_from_pack_to_export(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text(TINY)
    biggan(["pack", "digits", str(tmp_path / "d"), "--resolution", "32", "--grey", "--shards", "12"])
    settings = [f"run.dir={tmp_path / 'run'}", f"data.path={tmp_path / 'd'}", "training.steps=2"]
    assert "model.image_channels=1" in biggan(["train", str(preset), *settings], expect=2)
    biggan(["train", str(preset), *settings, "model.image_channels=1", "collapse.quality_every_steps=1"])
    tensors = weights(tmp_path / "run/checkpoints/step_00000002")
    assert tensors["ema/output_conv.weight"].shape[0] == tensors["discriminator/blocks.0.conv1.weight"].shape[1] == 1
    biggan(["export", str(tmp_path / "run"), str(tmp_path / "export"), "--truncations", "none"])
    images = load_generator(tmp_path / "export").sample(count=3)
    assert images.shape == (3, 32, 32, 3)
    assert (images == images[..., :1]).all()
    assert images.std() > 0
