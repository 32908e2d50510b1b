import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bounds import SUMS64
from numpy.lib.format import write_array_header_1_0
from pytorch_fid.fid_score import compute_statistics_of_path
from runs import run_worker

from biggan.errors import InputError
from biggan.evaluation.moments import Moments

pytestmark = pytest.mark.numeric

WORKER = Path(__file__).with_name("reductions_worker.py")


def moments_of(rows, sizes):
    moments = Moments(rows.shape[1])
    for part in rows.split(sizes):
        moments.add(part)
    return moments


def assert_equals_numpy(moments, rows, rtol=SUMS64):
    wide = rows.double().numpy()
    covariance = np.cov(wide, rowvar=False)
    assert moments.count == len(wide)
    torch.testing.assert_close(moments.mean, torch.from_numpy(wide.mean(0)), rtol=rtol, atol=0)
    atol = rtol * np.abs(covariance).max()
    torch.testing.assert_close(moments.covariance, torch.from_numpy(covariance), rtol=rtol, atol=atol)


@pytest.mark.parametrize("sizes", [1, 7, [1, 0, 90, 9], 100], ids=str)
def test_every_batch_size_equals_numpy_in_float64(sizes):
    rows = torch.randn(100, 12, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 12) + 3
    assert_equals_numpy(moments_of(rows, sizes), rows)


@pytest.mark.parametrize("sizes", [1, 64, 1000])
def test_a_mean_of_a_million_times_the_spread_does_not_cancel(sizes):
    """E[x^2] - E[x]^2 would lose all digits of the variance in float32, and all but 4 in float64."""
    rows = (torch.randn(1000, 5, generator=torch.Generator().manual_seed(1)) * 1e-2 + 1e4).float()
    assert_equals_numpy(moments_of(rows, sizes), rows)


def test_bfloat16_rows_are_accumulated_in_float64():
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert_equals_numpy(moments_of(rows, 8), rows)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_combine_to_the_moments_of_one_process(processes):
    """The worker compares moments, Frechet distance and Inception Score with numpy and with one process."""
    assert run_worker(WORKER, processes).count("checked") == processes


def test_files_are_compatible_with_pytorch_fid_in_both_directions(tmp_path):
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    ours, theirs = moments_of(rows, 16), tmp_path / "theirs.npz"
    ours.to_npz(tmp_path / "ours.npz", "some")
    mu, sigma = compute_statistics_of_path(str(tmp_path / "ours.npz"), None, 1, 6, "cpu")
    np.testing.assert_array_equal(mu, ours.mean.numpy())
    np.testing.assert_array_equal(sigma, ours.covariance.numpy())
    np.savez_compressed(theirs, mu=mu, sigma=sigma)  # as pytorch-fid's save_fid_stats does
    for path, count in ((theirs, 0), (tmp_path / "ours.npz", 40)):
        read = Moments.from_npz(path, dim=6)
        assert torch.equal(read.mean, ours.mean)
        assert torch.equal(read.covariance, ours.covariance)
        assert read.count == count
    assert sorted(os.listdir(tmp_path)) == ["ours.npz", "theirs.npz"]


GOOD = {"mu": np.zeros(3), "sigma": np.eye(3)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "mu and sigma"),
        (GOOD | {"mu": np.array(["a", "b", "c"])}, "mu and sigma"),
        (GOOD | {"mu": np.array([{}, {}, {}])}, r"\.npz file"),  # would need unpickling
        (GOOD | {"mu": np.zeros(4)}, r"mu is \[4\] and sigma \[3, 3\]"),
        (GOOD | {"mu": np.zeros((3, 1))}, r"mu is \[3, 1\]"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, r"mu is \[0\]"),
        (GOOD | {"mu": np.array([0, np.nan, 0])}, "mu or sigma .*NaN"),
        (GOOD | {"sigma": np.diag([1, np.inf, 1])}, "mu or sigma .*NaN"),
        (GOOD | {"sigma": np.triu(np.ones((3, 3)))}, "sigma is .*symmetric"),
        (GOOD | {"sigma": -np.eye(3)}, "sigma is .*symmetric"),
        (GOOD | {"count": np.array([1, 2])}, "count is "),
        (GOOD | {"count": np.array(-5)}, "count is "),
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, r"\b4\b.*\b3;"),
    ],
)
def test_a_file_with_other_content_is_refused_in_one_line(tmp_path, arrays, message):
    path = tmp_path / "odd.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=rf"odd\.npz: .*{message}") as caught:
        Moments.from_npz(path, dim=3)
    assert "\n" not in str(caught.value)


def test_a_corrupt_or_missing_file_is_refused_by_name(tmp_path):
    complete, cut = tmp_path / "complete.npz", tmp_path / "cut.npz"
    np.savez_compressed(complete, mu=np.arange(20.0), sigma=np.eye(20))
    content = complete.read_bytes()
    for length in range(0, len(content), 7):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.npz: .*\.npz file"):
            Moments.from_npz(cut)
    np.save(tmp_path / "cut.npy", np.eye(3))
    (tmp_path / "cut.npy").rename(cut)
    for path in (cut, tmp_path, tmp_path / "absent.npz"):
        with pytest.raises(InputError, match=path.name):
            Moments.from_npz(path)


def test_a_header_with_an_impossible_size_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "vast.npz", "w") as archive, archive.open("mu.npy", "w") as member:
        write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (1 << 55,)})
    with pytest.raises(InputError, match=r"vast\.npz: .*\.npz file"):
        Moments.from_npz(tmp_path / "vast.npz")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_flipped_bit_is_refused_or_changes_no_number(tmp_path, write):
    """The zip checksums cover every number, but not names and times."""
    path = tmp_path / "flipped.npz"
    mu, sigma = np.arange(5.0), np.diag(np.arange(1.0, 6))
    write(path, mu=mu, sigma=sigma)
    content = path.read_bytes()
    refused = 0
    for k in range(len(content)):
        path.write_bytes(content[:k] + bytes([content[k] ^ 0x10]) + content[k + 1 :])
        try:
            read = Moments.from_npz(path)
        except InputError as error:
            refused += "flipped.npz" in str(error)
        else:
            np.testing.assert_array_equal(read.mean.numpy(), mu)
            np.testing.assert_array_equal(read.covariance.numpy(), sigma)
    assert refused > len(content) / 3
