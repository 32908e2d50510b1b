import copy
import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from runs import run_worker
from stand_ins import Tiles, generator, silent

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
BATCHES = 1e-6
"""Relative: features are the same numbers, summed in batches of other sizes in float64. One image more gives 1e-3."""
WORKER = Path(__file__).with_name("evaluate_worker.py")


@pytest.fixture(scope="module")
def real(digits):
    return RealSplit(load(digits), str(digits))


def evaluator(real, extractor=None, **settings):
    settings = Settings(**{"num_images": 200, "subset_images": 150} | settings)
    return Evaluator(real, extractor or Tiles(), settings, ALONE, silent)


@pytest.mark.numeric
def test_metrics_match_those_computed_from_the_images(real):
    measure, G = evaluator(real, per_class=True), generator()
    result = measure(G, 0.7)
    prepared = standing_statistics(G, 0.7)
    images, labels = zip(*(measure.generate(prepared, [k], 0.7) for k in range(200)), strict=True)
    images, labels = torch.cat(images), torch.cat(labels)
    assert labels.tolist() == [k % 10 for k in range(200)]
    extracted = Tiles()(images)
    moments = Moments(48)
    moments.add(extracted.features)
    assert result.metrics["fid"] == pytest.approx(frechet_distance(measure.real_summary.moments, moments), rel=BATCHES)
    correct = (extracted.logits.argmax(1) == labels).double()
    assert result.metrics["accuracy"] == pytest.approx(float(correct.mean()))
    assert 0 < result.metrics["accuracy"] < 1
    assert result.per_class["accuracy"]["3"] == pytest.approx(float(correct[labels == 3].mean()))
    threes = Moments(48)
    threes.add(extracted.features[labels == 3])
    expected = frechet_distance(measure.real_summary.class_moments[3], threes)
    assert result.per_class["fid"]["3"] == pytest.approx(expected, rel=BATCHES)
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
def test_leaves_the_generator_unchanged(real, standing):
    G = generator().train()
    G(torch.randn(8, 8), torch.arange(8))
    before, random = copy.deepcopy(G.state_dict()), torch.get_rng_state()
    evaluator(real, standing=standing, num_images=40)(G, 0.5)
    assert all(module.training for module in G.modules())
    after = G.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in G.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_standing_and_running_statistics_differ_and_are_reported(real):
    standing, running = (evaluator(real, standing=flag, num_images=64)(generator()) for flag in (True, False))
    assert "standing (16 batches of 64)" in standing.protocol.in_words()
    assert "running" in running.protocol.in_words()
    assert standing.metrics["fid"] != running.metrics["fid"]


def test_resumed_evaluation_equals_uninterrupted(real, tmp_path, monkeypatch):
    monkeypatch.setattr("biggan.evaluation.resumable.SAVE_EVERY_SECONDS", 0)
    expected, G = evaluator(real, per_class=True)(generator()), generator()
    evaluator(real, per_class=True)  # caches the real statistics
    with pytest.raises(KeyboardInterrupt):
        evaluator(real, Tiles(fails_at=4), per_class=True)(G, None, tmp_path)
    remaining = Tiles()
    assert evaluator(real, remaining, per_class=True)(G, None, tmp_path) == expected
    assert remaining.calls == 3
    done = Tiles()
    assert evaluator(real, done, per_class=True)(G, None, tmp_path) == expected
    assert done.calls == 0


def test_resumes_only_the_same_request(real, tmp_path, monkeypatch):
    monkeypatch.setattr("biggan.evaluation.resumable.SAVE_EVERY_SECONDS", 0)
    evaluator(real)(generator(), 0.5, tmp_path)
    other = generator()
    with torch.no_grad():
        other.linear.weight[0, 0] += 1e-3
    for G, truncation, settings in ((generator(), 0.6, {}), (generator(), 0.5, {"seed": 1}), (other, 0.5, {})):
        extractor = Tiles()
        evaluator(real, extractor, **settings)(G, truncation, tmp_path)
        assert extractor.calls == 7


@pytest.mark.numeric
def test_halves_of_the_real_images_are_close(real):
    measure = evaluator(real, num_images=64, subset_images=800)
    halves, fake = measure.real_halves(), measure(generator()).metrics
    # An untrained generator is far away: measured are 0.7% and 0.01%.
    assert halves["fid"] < 0.02 * fake["fid"]
    assert abs(halves["kid"]) < 0.02 * fake["kid"]
    assert min(halves[name] for name in ("precision", "recall", "coverage")) > 0.8


@pytest.mark.numeric
def test_metrics_inside_classes_average_over_each_class_alone(real):
    measure = evaluator(real, num_images=510, subset_images=1000)
    metrics = measure(generator(), 0.7).metrics
    prepared = standing_statistics(generator(), 0.7)
    images = torch.cat([measure.generate(prepared, [k], 0.7)[0] for k in range(510)])
    fake, labels, of_class = Tiles()(images).features, torch.arange(510) % 10, []
    for k in range(10):
        own = measure.real_summary.rows[measure.real_summary.labels == k]
        evenly = own[torch.arange(51) * len(own) // 51]
        of_class.append(manifold(evenly, fake[labels == k], 5))
    assert metrics["precision_inside_classes"] == pytest.approx(sum(m.precision for m in of_class) / 10)
    assert metrics["recall_inside_classes"] == pytest.approx(sum(m.recall for m in of_class) / 10)


@pytest.mark.numeric
def test_nearest_real_searches_the_whole_data_set(real):
    measure = evaluator(real)
    queries = torch.stack([torch.from_numpy(i) for _, batch, _ in real.batches(1) for i in batch.numpy()])[:5]
    neighbours = measure.nearest_real(queries)
    everything = torch.cat([batch for shard in range(12) for _, batch, _ in real.batches(shard)])
    distances, indices = nearest(Tiles()(queries).features, Tiles()(everything).features, 7)
    torch.testing.assert_close(neighbours.distances, distances)
    assert torch.equal(neighbours.images[:, 0], queries)
    assert torch.equal(neighbours.images[:, 1:3], everything[indices[:, 1:3]])


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match=r"--num-images: 0\b"):
        Settings(num_images=0)


@pytest.mark.long
def test_one_two_and_three_processes_agree(digits, tmp_path):
    reports = []
    for processes in (1, 2, 3):
        out = tmp_path / f"{processes}.json"
        run_worker(WORKER, processes, digits, tmp_path / f"cache{processes}", out)
        reports.append(json.loads(out.read_text()))
    one = reports[0]
    assert {"kid", "coverage", "recall_inside_classes"} <= one["metrics"].keys() & one["halves"].keys()
    for other in reports[1:]:
        assert other["images"] == one["images"]
        assert other["neighbours"] == one["neighbours"]
        for part in ("metrics", "fid_of_classes", "halves"):
            for name, value in one[part].items():
                assert other[part][name] == pytest.approx(value, rel=BATCHES, abs=1e-9), name


def test_protocol_records_everything_that_metrics_depend_on(real):
    protocol = asdict(evaluator(real, num_images=64)(generator()).protocol)
    assert {"features", "identity", "statistics", "truncation", "num_images", "seed", "dataset_checksum"} <= set(
        protocol
    )
    assert protocol["weights"] == "EMA"
