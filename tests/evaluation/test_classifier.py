from itertools import accumulate

import pytest
import torch
from stand_ins import SHORT, silent

from biggan.data.dataset import load
from biggan.distributed.process import Process
from biggan.evaluation.classifier import (
    ClassifierPlan,
    LabelledImages,
    cache_file,
    load_real_images,
    open_classifier,
    shift,
)
from biggan.evaluation.tensor_file import read_tensors, write_tensors

ALONE = Process(0, 1, torch.device("cpu"), None)


def test_classifies_held_out_real_images(trained, digits):
    classifier, _, ticks = trained
    assert ticks[-1][1] == ticks[-1][2] == sum(description == "training the classifier" for description, _, _ in ticks)
    assert classifier.held_out_accuracy > 0.9
    _, held_out = load_real_images(load(digits), str(digits), 32, ALONE, silent)
    extracted = classifier(held_out.images)
    accuracy = float((extracted.logits.argmax(1) == held_out.labels).float().mean())
    assert accuracy == pytest.approx(classifier.held_out_accuracy)  # a share of the same images
    assert extracted.features.shape == (len(held_out.labels), classifier.dim)


def test_cache_is_keyed_by_data_and_training_plan(trained, digits):
    classifier, cache, _ = trained
    own_ticks = []
    again = open_classifier(load(digits), str(digits), cache, ALONE, lambda *tick: own_ticks.append(tick), SHORT)
    assert (again.identity, again.held_out_accuracy) == (classifier.identity, classifier.held_out_accuracy)
    assert own_ticks == []
    quick = ClassifierPlan(epochs=1, least_images=1)
    other = open_classifier(load(digits), str(digits), cache, ALONE, lambda *tick: own_ticks.append(tick), quick)
    assert other.identity != classifier.identity
    assert own_ticks
    assert {cache_file(load(digits), cache, plan) for plan in (SHORT, quick)} == set(cache.iterdir())


def test_training_is_deterministic_and_leaves_the_global_rng_alone(digits, tmp_path):
    quick = ClassifierPlan(epochs=1, least_images=1)
    torch.manual_seed(1)
    a = open_classifier(load(digits), str(digits), tmp_path / "a", ALONE, lambda *_: None, quick)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    b = open_classifier(load(digits), str(digits), tmp_path / "b", ALONE, lambda *_: None, quick)
    assert a.identity == b.identity
    assert torch.equal(torch.get_rng_state(), state)


def test_held_out_images_are_disjoint_from_training_images(digits):
    train, held_out = load_real_images(load(digits), str(digits), 32, ALONE, silent)
    assert isinstance(train, LabelledImages)
    rows = {image.numpy().tobytes() for image in train.images}
    shared = sum(image.numpy().tobytes() in rows for image in held_out.images)
    assert len(train.labels) + len(held_out.labels) == 1797
    assert shared <= 2  # the digits contain a few duplicate scans


def test_shift_moves_images_and_replicates_edges():
    image = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    image[0, 8, 5] = 255
    moved = torch.cat([shift(image, torch.Generator().manual_seed(k)) for k in range(300)])
    positions = {tuple(position) for position in moved[..., 0].nonzero()[:, 1:].tolist()}
    assert positions == {(8 + a, 5 + b) for a in range(-2, 3) for b in range(-2, 3)}
    assert bool((moved.sum((1, 2)) == 255).all())


def test_images_are_read_by_shard_up_to_a_limit(digits, monkeypatch):
    """Each shard is one tick and one collective. Ranks other than 0 hold no images."""
    waits, ticks = [], []

    class Recorder(Process):
        def together(self, action):
            waits.append(self.rank)
            return action()

    for rank in (0, 1):
        process = Recorder(rank, 2, torch.device("cpu"), None)
        parts = load_real_images(load(digits), str(digits), 32, process, lambda *tick: ticks.append(tick))
        assert sum(len(part.labels) for part in parts) == (0 if rank else 1797)
    shards = load(digits).splits["train"].shards
    assert waits == [0] * len(shards) + [1] * len(shards)
    assert [done for _, done, _ in ticks[: len(shards)]] == list(accumulate(shard.images for shard in shards))
    monkeypatch.setattr("biggan.evaluation.classifier.MAX_IMAGES", 100)
    few = load_real_images(load(digits), str(digits), 32, ALONE, silent)
    assert [len(part.labels) for part in few] == [95, 5]
    assert all(len(part.images) == len(part.labels) for part in few)
    assert set(few[0].labels.tolist()) == set(range(10))


def test_a_cached_classifier_that_does_not_fit_is_retrained(digits, tmp_path):
    quick = ClassifierPlan(epochs=1, least_images=1)
    trained = open_classifier(load(digits), str(digits), tmp_path, ALONE, silent, quick)
    file = cache_file(load(digits), tmp_path, quick)
    tensors, about = read_tensors(file)
    wrong_shapes = {name: tensor[:1] if tensor.ndim else tensor for name, tensor in tensors.items()}
    for content, metadata in (({"x": torch.ones(2)}, about), (wrong_shapes, about), (tensors, {})):
        write_tensors(file, content, metadata)
        again = open_classifier(load(digits), str(digits), tmp_path, ALONE, silent, quick)
        assert again.identity == trained.identity
        assert read_tensors(file)[1] == about
        assert read_tensors(file)[0].keys() == tensors.keys()
