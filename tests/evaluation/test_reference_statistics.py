import numpy as np
import pytest
import torch
from stand_ins import Tiles, silent

from biggan.data.dataset import load
from biggan.data.preview import first_images
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.feature_summary import check_per_class
from biggan.evaluation.reference_statistics import RealSplit, read_statistics, real_summaries
from biggan.evaluation.tensor_file import read_tensors, write_tensors

ALONE = Process(0, 1, torch.device("cpu"), None)


@pytest.fixture
def real(digits, tmp_path, monkeypatch):
    """The digits, with a cache folder for this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)
    return RealSplit(load(digits), str(digits))


def summaries(real, extractor, kept=100, per_class=False, parts=1):
    return real_summaries(real, extractor, kept, per_class, parts, ALONE, silent)


@pytest.mark.numeric
def test_moments_cover_all_images_and_kept_rows_match(real, digits):
    (summary,) = summaries(real, Tiles(), per_class=True)
    images, labels = first_images(real.dataset, str(digits), "train", 10**6)
    rows = Tiles()(images.permute(0, 2, 3, 1)).features.double().numpy()
    assert summary.moments.count == 1797
    # Both sum the same float32 features in float64, averaged over tiles in other batches: rounding of 1e-7.
    np.testing.assert_allclose(summary.moments.mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(summary.moments.covariance, np.cov(rows.T), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(summary.class_moments[3].covariance, np.cov(rows[labels == 3].T), rtol=1e-5, atol=1e-9)
    assert 90 < len(summary.rows) <= 100
    np.testing.assert_allclose(summary.rows, rows[summary.numbers], rtol=1e-5)


def test_halves_are_disjoint_and_complete(real):
    full, (first, second) = summaries(real, Tiles(), kept=2000)[0], summaries(real, Tiles(), kept=2000, parts=2)
    assert sorted([*first.numbers.tolist(), *second.numbers.tolist()]) == full.numbers.tolist() == list(range(1797))
    rows = torch.cat([first.rows, second.rows])[torch.cat([first.numbers, second.numbers]).argsort()]
    assert torch.equal(rows, full.rows)


def test_cache_is_keyed_by_data_features_and_options(real, digits):
    (computed,) = summaries(real, Tiles())
    again = Tiles()
    (cached,) = summaries(real, again)
    assert again.calls == 0
    assert torch.equal(cached.moments.covariance, computed.moments.covariance)
    assert torch.equal(cached.rows, computed.rows)
    shard = real.dataset.splits["train"].shards[0].model_copy(update={"sha256": "other"})
    split = real.dataset.splits["train"].model_copy(
        update={"shards": (shard, *real.dataset.splits["train"].shards[1:])}
    )
    changed = RealSplit(real.dataset.model_copy(update={"splits": {"train": split}}), str(digits))
    for images, extractor, options in (
        (real, Tiles("tiles 2"), {}),
        (real, Tiles(), {"per_class": True}),
        (real, Tiles(), {"kept": 50}),
        (changed, Tiles(), {}),
    ):
        summaries(images, extractor, **options)
        assert extractor.calls > 50


def test_a_corrupt_cache_is_recomputed(real):
    (computed,) = summaries(real, Tiles())
    (file,) = real.cache.glob("real-*")
    file.write_bytes(file.read_bytes()[:1000])
    extractor = Tiles()
    (again,) = summaries(real, extractor)
    assert extractor.calls
    assert torch.equal(again.moments.covariance, computed.moments.covariance)


def test_a_cache_with_other_content_is_recomputed(real):
    (computed,) = summaries(real, Tiles())
    (file,) = real.cache.glob("real-*")
    tensors, about = read_tensors(file)
    narrow = tensors | {"part0/rows": tensors["part0/rows"][:, :4]}
    incomplete = {name: tensor for name, tensor in tensors.items() if name != "part0/moments0/scatter"}
    for content, metadata in (({"x": torch.ones(2)}, about), (narrow, about), (incomplete, about), (tensors, {"a": 1})):
        write_tensors(file, content, metadata)
        extractor = Tiles()
        (again,) = summaries(real, extractor)
        assert extractor.calls
        assert torch.equal(again.moments.covariance, computed.moments.covariance)
    cached = Tiles()
    summaries(real, cached)
    assert not cached.calls


def test_unfinished_work_with_other_content_restarts(real, monkeypatch):
    monkeypatch.setattr("biggan.evaluation.resumable.SAVE_EVERY_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        summaries(real, Tiles(fails_at=40))
    (file,) = (real.cache / "partial").iterdir()
    write_tensors(file, {"x": torch.ones(2)}, {"units": 3})
    (summary,) = summaries(real, Tiles())
    assert summary.moments.count == 1797


def test_interrupted_statistics_resume(real, monkeypatch):
    monkeypatch.setattr("biggan.evaluation.resumable.SAVE_EVERY_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        summaries(real, Tiles(fails_at=40))
    remaining = Tiles()
    (resumed,) = summaries(real, remaining)
    assert 0 < remaining.calls < 40
    assert [file.name[:5] for file in real.cache.iterdir()] == ["real-"]
    next(real.cache.iterdir()).unlink()
    (expected,) = summaries(real, Tiles())
    assert torch.equal(resumed.moments.covariance, expected.moments.covariance)
    assert torch.equal(resumed.rows, expected.rows)


def test_a_file_of_statistics_needs_the_same_features(real, tmp_path):
    (computed,) = summaries(real, Tiles())
    file = tmp_path / "real.npz"
    computed.moments.to_npz(file, Tiles().identity)
    read = read_statistics(file, Tiles(), ALONE.device)
    assert torch.equal(read.moments.covariance, computed.moments.covariance)
    with pytest.raises(InputError, match=rf"^--real-statistics: {file}: .*\(tiles 1 .*\(tiles 2\).*--write-statistics"):
        read_statistics(file, Tiles("tiles 2"), ALONE.device)
    wider = Tiles()
    wider.dim = 64
    with pytest.raises(InputError, match=rf"^--real-statistics: {file}: .*\b48\b.*\b64\b"):
        read_statistics(file, wider, ALONE.device)


def test_a_file_without_features_is_accepted_for_inception_only(real, tmp_path):
    """pytorch-fid's files do not state their features."""
    file = tmp_path / "real.npz"
    np.savez(file, mu=np.zeros(48), sigma=np.eye(48))
    inception = Tiles()
    inception.name = "inception"
    assert torch.equal(read_statistics(file, inception, ALONE.device).moments.covariance, torch.eye(48).double())
    with pytest.raises(InputError, match=rf"^--real-statistics: {file}: .*--features inception"):
        read_statistics(file, Tiles(), ALONE.device)
    np.savez(file, mu=np.zeros(48), sigma=np.eye(48), features=np.zeros(3))
    with pytest.raises(InputError, match=rf"^--real-statistics: {file}: features is "):
        read_statistics(file, inception, ALONE.device)


def test_per_class_moments_that_need_too_much_memory_are_refused():
    check_per_class(2048, 10)
    with pytest.raises(InputError, match=r"^--per-class: .*\b1000\b.*\b2048\b.*62.5 GiB"):
        check_per_class(2048, 1000)
