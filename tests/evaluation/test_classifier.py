from itertools import accumulate

import pytest
import torch
from cheap import SHORT, silent

from biggan.data.dataset import load
from biggan.distributed.process import Process
from biggan.evaluation.classifier import Images, LessonPlan, cache_file, open_classifier, real_images, shifted
from biggan.evaluation.tensor_file import read_tensors, write_tensors

ALONE = Process(0, 1, torch.device("cpu"), None)


def test_reads_real_images_it_was_not_trained_on(trained, digits):
    classifier, _, ticks = trained
    assert ticks[-1][1] == ticks[-1][2] == sum(what == "training the classifier" for what, _, _ in ticks)
    assert classifier.held_out_accuracy > 0.9
    _, held_out = real_images(load(digits), str(digits), 32, ALONE, silent)
    seen = classifier(held_out.images)
    right = float((seen.logits.argmax(1) == held_out.labels).float().mean())
    assert right == pytest.approx(classifier.held_out_accuracy)
    assert seen.features.shape == (len(held_out.labels), classifier.dim)


def test_is_read_from_the_cache_until_data_or_course_differ(trained, digits):
    classifier, cache, _ = trained
    said = []
    again = open_classifier(load(digits), str(digits), cache, ALONE, lambda *tick: said.append(tick), SHORT)
    assert (again.identity, again.held_out_accuracy, said) == (classifier.identity, classifier.held_out_accuracy, [])
    quick = LessonPlan(epochs=1, least_images=1)
    other = open_classifier(load(digits), str(digits), cache, ALONE, lambda *tick: said.append(tick), quick)
    assert other.identity != classifier.identity
    assert said
    assert {cache_file(load(digits), cache, course) for course in (SHORT, quick)} == set(cache.iterdir())


def test_the_same_seed_gives_the_same_weights(digits, tmp_path):
    quick = LessonPlan(epochs=1, least_images=1)
    torch.manual_seed(1)
    a = open_classifier(load(digits), str(digits), tmp_path / "a", ALONE, lambda *_: None, quick)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    b = open_classifier(load(digits), str(digits), tmp_path / "b", ALONE, lambda *_: None, quick)
    assert a.identity == b.identity
    assert torch.equal(torch.get_rng_state(), state)


def test_held_out_images_are_no_training_images(digits):
    train, held_out = real_images(load(digits), str(digits), 32, ALONE, silent)
    assert isinstance(train, Images)
    rows = {image.numpy().tobytes() for image in train.images}
    shared = sum(image.numpy().tobytes() in rows for image in held_out.images)
    assert len(train.labels) + len(held_out.labels) == 1797
    assert shared <= 2  # digits has a few scans twice


def test_shifts_move_whole_images_and_repeat_edges():
    image = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    image[0, 8, 5] = 255
    moved = torch.cat([shifted(image, torch.Generator().manual_seed(k)) for k in range(300)])
    places = {tuple(place) for place in moved[..., 0].nonzero()[:, 1:].tolist()}
    assert places == {(8 + a, 5 + b) for a in range(-2, 3) for b in range(-2, 3)}
    assert bool((moved.sum((1, 2)) == 255).all())


def test_images_are_read_shard_by_shard_and_only_so_many_are_kept(digits, monkeypatch):
    """Each shard ends with a tick, and is one wait for the others, who hold nothing."""
    waits, ticks = [], []

    class Watched(Process):
        def together(self, action):
            waits.append(self.rank)
            return action()

    for rank in (0, 1):
        process = Watched(rank, 2, torch.device("cpu"), None)
        found = real_images(load(digits), str(digits), 32, process, lambda *tick: ticks.append(tick))
        assert sum(len(part.labels) for part in found) == (0 if rank else 1797)
    shards = load(digits).splits["train"].shards
    assert waits == [0] * len(shards) + [1] * len(shards)
    assert [done for _, done, _ in ticks[: len(shards)]] == list(accumulate(shard.images for shard in shards))
    monkeypatch.setattr("biggan.evaluation.classifier.MOST_IMAGES", 100)
    few = real_images(load(digits), str(digits), 32, ALONE, silent)
    assert [len(part.labels) for part in few] == [95, 5]
    assert all(len(part.images) == len(part.labels) for part in few)
    assert set(few[0].labels.tolist()) == set(range(10))


def test_a_cached_classifier_that_does_not_fit_is_trained_again(digits, tmp_path):
    quick = LessonPlan(epochs=1, least_images=1)
    made = open_classifier(load(digits), str(digits), tmp_path, ALONE, silent, quick)
    file = cache_file(load(digits), tmp_path, quick)
    tensors, about = read_tensors(file)
    wrong = {name: tensor[:1] if tensor.ndim else tensor for name, tensor in tensors.items()}
    for others, words in (({"x": torch.ones(2)}, about), (wrong, about), (tensors, {})):
        write_tensors(file, others, words)
        again = open_classifier(load(digits), str(digits), tmp_path, ALONE, silent, quick)
        assert again.identity == made.identity
        assert read_tensors(file)[1] == about
        assert read_tensors(file)[0].keys() == tensors.keys()
