import copy
import json
import math
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from cheap import Tiles, generator, silent
from runs import environment, torchrun

from biggan.data.dataset import load
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.distances import frechet_distance
from biggan.evaluation.evaluate import Evaluator, Settings
from biggan.evaluation.manifold import manifold, nearest
from biggan.evaluation.moments import Moments
from biggan.evaluation.reference_statistics import RealSplit
from biggan.generation.standing_stats import standing_statistics

ALONE = Process(0, 1, torch.device("cpu"), None)
WORKER = Path(__file__).with_name("evaluate_worker.py")


@pytest.fixture(scope="module")
def real(digits):
    return RealSplit(load(digits), str(digits))


def evaluator(real, extractor=None, **settings):
    chosen = Settings(**{"num_images": 200, "subset_images": 150} | settings)
    return Evaluator(real, extractor or Tiles(), chosen, ALONE, silent)


def test_numbers_are_those_of_the_images_that_were_asked_for(real):
    measure, G = evaluator(real, per_class=True), generator()
    result = measure(G, 0.7)
    prepared = standing_statistics(G, 0.7)
    images, labels = zip(*(measure.images(prepared, [k], 0.7) for k in range(200)), strict=True)
    images, labels = torch.cat(images), torch.cat(labels)
    assert labels.tolist() == [k % 10 for k in range(200)]
    seen = Tiles()(images)
    moments = Moments(48)
    moments.add(seen.features)
    assert result.metrics["fid"] == pytest.approx(frechet_distance(measure.real.moments, moments), rel=1e-6)
    right = (seen.logits.argmax(1) == labels).double()
    assert result.metrics["accuracy"] == pytest.approx(float(right.mean()))
    assert 0 < result.metrics["accuracy"] < 1
    assert result.per_class["accuracy"]["3"] == pytest.approx(float(right[labels == 3].mean()))
    threes = Moments(48)
    threes.add(seen.features[labels == 3])
    expected = frechet_distance(measure.real.of_class[3], threes)
    assert result.per_class["fid"]["3"] == pytest.approx(expected, rel=1e-6)
    protocol = result.protocol
    assert (protocol.truncation, protocol.num_images, protocol.real_images, protocol.subset_images) == (
        0.7,
        200,
        1797,
        150,
    )
    assert "truncation 0.7" in protocol.in_words()
    assert all(math.isfinite(value) for value in result.metrics.values())
    json.dumps(result.as_json(), allow_nan=False)


@pytest.mark.parametrize("standing", [True, False])
def test_leaves_the_generator_as_it_was(real, standing):
    G = generator().train()
    G(torch.randn(8, 8), torch.arange(8))
    before, random = copy.deepcopy(G.state_dict()), torch.get_rng_state()
    evaluator(real, standing=standing, num_images=40)(G, 0.5)
    assert all(module.training for module in G.modules())
    after = G.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in G.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_standing_and_running_statistics_are_told_apart(real):
    standing, running = (evaluator(real, standing=flag, num_images=64)(generator()) for flag in (True, False))
    assert "standing (16 batches of 64)" in standing.protocol.in_words()
    assert "running" in running.protocol.in_words()
    assert standing.metrics["fid"] != running.metrics["fid"]


def test_interrupted_and_gone_on_with_equals_uninterrupted(real, tmp_path, monkeypatch):
    monkeypatch.setattr("biggan.evaluation.partial.SAVE_EVERY_SECONDS", 0)
    whole, G = evaluator(real, per_class=True)(generator()), generator()
    evaluator(real, per_class=True)  # the real statistics are cached now
    with pytest.raises(KeyboardInterrupt):
        evaluator(real, Tiles(fails_at=4), per_class=True)(G, None, tmp_path)
    rest = Tiles()
    assert evaluator(real, rest, per_class=True)(G, None, tmp_path) == whole
    assert rest.calls == 3
    done = Tiles()
    assert evaluator(real, done, per_class=True)(G, None, tmp_path) == whole
    assert done.calls == 0


def test_goes_on_only_with_the_same_request(real, tmp_path, monkeypatch):
    monkeypatch.setattr("biggan.evaluation.partial.SAVE_EVERY_SECONDS", 0)
    evaluator(real)(generator(), 0.5, tmp_path)
    other = generator()
    with torch.no_grad():
        other.linear.weight[0, 0] += 1e-3
    for G, truncation, settings in ((generator(), 0.6, {}), (generator(), 0.5, {"seed": 1}), (other, 0.5, {})):
        extractor = Tiles()
        evaluator(real, extractor, **settings)(G, truncation, tmp_path)
        assert extractor.calls == 7


def test_a_half_of_the_real_images_is_near_the_other(real):
    measure = evaluator(real, num_images=64, subset_images=800)
    halves, fake = measure.real_halves(), measure(generator()).metrics
    assert halves["fid"] < 0.02 * fake["fid"]
    assert abs(halves["kid"]) < 0.02 * fake["kid"]
    assert min(halves[name] for name in ("precision", "recall", "coverage")) > 0.8


def test_neighbours_inside_a_class_are_those_of_its_own_images(real):
    measure = evaluator(real, num_images=510, subset_images=1000)
    found = measure(generator(), 0.7).metrics
    prepared = standing_statistics(generator(), 0.7)
    images = torch.cat([measure.images(prepared, [k], 0.7)[0] for k in range(510)])
    fake, labels, of_class = Tiles()(images).features, torch.arange(510) % 10, []
    for k in range(10):
        own = measure.real.rows[measure.real.labels == k]
        evenly = own[torch.arange(51) * len(own) // 51]
        of_class.append(manifold(evenly, fake[labels == k], 5))
    assert found["precision_inside_classes"] == pytest.approx(sum(m.precision for m in of_class) / 10)
    assert found["recall_inside_classes"] == pytest.approx(sum(m.recall for m in of_class) / 10)


def test_nearest_real_images_are_those_of_the_whole_set(real):
    measure = evaluator(real)
    queries = torch.stack([torch.from_numpy(i) for _, batch, _ in real.batches(1) for i in batch.numpy()])[:5]
    found = measure.nearest_real(queries)
    everything = torch.cat([batch for shard in range(12) for _, batch, _ in real.batches(shard)])
    distances, indices = nearest(Tiles()(queries).features, Tiles()(everything).features, 7)
    torch.testing.assert_close(found.distances, distances)
    assert torch.equal(found.images[:, 0], queries)
    assert torch.equal(found.images[:, 1:3], everything[indices[:, 1:3]])


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match=r"--num-images: 0; use at least 10"):
        Settings(num_images=0)


@pytest.mark.long
def test_one_two_and_three_processes_measure_the_same_images(digits, tmp_path):
    found = []
    for processes in (1, 2, 3):
        out = tmp_path / f"{processes}.json"
        done = subprocess.run(
            [*torchrun(processes), str(WORKER), str(digits), str(tmp_path / f"cache{processes}"), str(out)],
            capture_output=True, text=True, env=environment(), timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(json.loads(out.read_text()))
    one = found[0]
    assert {"kid", "coverage", "recall_inside_classes"} <= one["metrics"].keys() & one["halves"].keys()
    for other in found[1:]:
        assert other["images"] == one["images"]
        assert other["neighbours"] == one["neighbours"]
        for part in ("metrics", "fid_of_classes", "halves"):
            for name, value in one[part].items():
                assert other[part][name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_a_result_says_everything_that_its_numbers_depend_on(real):
    protocol = asdict(evaluator(real, num_images=64)(generator()).protocol)
    assert {"features", "identity", "statistics", "truncation", "num_images", "seed", "dataset_checksum"} <= set(
        protocol
    )
    assert protocol["weights"] == "EMA"
