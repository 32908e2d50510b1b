"""Mean and covariance of feature rows: streaming, over any number of processes, and as pytorch-fid's files."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import read_array
from numpy.typing import NDArray
from torch import Tensor

from biggan.distributed.collectives import all_gather_rows, all_reduce_sum
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.files import write_atomically

ASYMMETRY = 1e-6
"""By how much a stated covariance may differ from its transpose, as a share of its largest entry: some are float32."""


class Moments:
    """Mean and covariance of rows that come in batches, in float64.

    Batches are combined by deviations from their own means (Chan, Golub and LeVeque 1983, "Algorithms for Computing
    the Sample Variance", equations 2.1): a sum of squares less the square of a sum would cancel where the mean is
    large beside the spread. For the same reason all rows are taken relative to the first.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu"):
        """Of no rows yet; `dim` numbers a row, kept on `device`."""
        self.count = 0
        """Rows so far; 0 of a file that does not say."""
        self.features: str | None = None
        """Identity of the features (`Extractor.identity`) that a file states; None if it does not."""
        self._origin = torch.zeros(dim, dtype=torch.float64, device=device)
        self._mean = torch.zeros_like(self._origin)
        """Of rows - origin."""
        self._scatter = self._mean.new_zeros(dim, dim)
        """Sum over rows of (row - mean)^T (row - mean)."""
        self._stated: Tensor | None = None
        """The covariance that a file states."""

    @property
    def mean(self) -> Tensor:
        """float64 [dim]; 0 of no rows."""
        return self._origin + self._mean

    @property
    def covariance(self) -> Tensor:
        """float64 [dim, dim]: unbiased, as numpy.cov; of at least 2 rows. Its rank is below their number."""
        if self._stated is not None:
            return self._stated
        assert self.count >= 2, "a covariance needs 2 rows"
        return self._scatter / (self.count - 1)

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Add rows [n, dim] of any float type, from any device; n may be 0."""
        assert self._stated is None, "a file's moments are final"
        if not len(rows):
            return
        rows = rows.to(self._mean)
        if not self.count:
            self._origin = rows[0].clone()
        rows = rows - self._origin
        batch_mean = rows.mean(0)
        total = self.count + len(rows)
        apart = batch_mean - self._mean
        # What the distance of the two means adds is one row more, so that all is one product.
        between = apart * (self.count * len(rows) / total) ** 0.5
        deviations = torch.cat([rows - batch_mean, between.unsqueeze(0)])
        self._scatter.addmm_(deviations.T, deviations)
        self._mean += apart * (len(rows) / total)
        self.count = total

    @torch.no_grad()
    def combined(self, process: Process) -> Moments:
        """The moments of all processes' rows, the same on all; of one process, `self`. Collective.

        No process ever holds those of all: means are gathered, and scatter about the mean of all is summed.
        """
        if process.group is None:
            return self
        assert self._stated is None, "a file's moments are final"
        counts = process.gather(self.count)
        whole = Moments(len(self._mean), self._mean.device)
        whole.count = sum(counts)
        origins, means = all_gather_rows(torch.cat([self._origin, self._mean]), process.group).chunk(2, 1)
        whole._origin = origins[counts.index(max(counts))].clone()  # that of a process which has rows
        means = means + (origins - whole._origin)
        whole._mean = torch.tensor(counts).to(means) @ means / max(whole.count, 1)
        apart = means[process.rank] - whole._mean
        # Copied, and so waited for: this process may have no other use for it.
        whole._scatter.copy_(all_reduce_sum(torch.addr(self._scatter, apart, apart, alpha=self.count), process.group))
        return whole

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name, for `restore`."""
        assert self._stated is None, "a file's moments are in that file"
        count = torch.tensor(self.count)
        return {"count": count, "origin": self._origin, "mean": self._mean, "scatter": self._scatter}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what `tensors` gave, to the bit."""
        self.count = int(tensors["count"])
        self._origin, self._mean, self._scatter = (
            tensors[name].to(self._mean.device) for name in ("origin", "mean", "scatter")
        )

    def to_npz(self, path: Path, features: str) -> None:
        """Write pytorch-fid's file: `mu` [dim] and `sigma` [dim, dim], float64; and, beyond it, `count` and `features`.

        `features` is the identity of the features. Atomic. Raises OSError.
        """
        content = io.BytesIO()
        mean, covariance = self.mean.cpu().numpy(), self.covariance.cpu().numpy()
        np.savez(content, mu=mean, sigma=covariance, count=np.array(self.count), features=np.array(features))
        write_atomically(path, content.getvalue())

    @classmethod
    def from_npz(cls, path: Path, dim: int | None = None) -> Moments:
        """Read a file of `to_npz` or of `python -m pytorch_fid --save-stats`, into host memory; rows cannot be added.

        Raises InputError for a file that is not there, damaged, of something else, or not of `dim` numbers a row.
        """
        arrays = _read(path)
        mean, covariance = arrays.get("mu"), arrays.get("sigma")
        if mean is None or covariance is None or not (_is_float(mean) and _is_float(covariance)):
            raise InputError(f"{path}: no float arrays mu and sigma in it; give a file of pytorch-fid's --save-stats")
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not len(mean):
            shapes = f"mu is {list(mean.shape)} and sigma {list(covariance.shape)}"
            raise InputError(f"{path}: {shapes}, not [n] and [n, n]; make it again")
        if dim is not None and len(mean) != dim:
            raise InputError(f"{path}: of {len(mean)} features, not {dim}; give the file of the features in use")
        moments = cls(len(mean))
        moments._mean = torch.from_numpy(mean.astype(np.float64))
        moments._stated = torch.from_numpy(covariance.astype(np.float64))
        _check_values(path, moments)
        moments.count = _count(path, arrays.get("count"))
        moments.features = _features(path, arrays.get("features"))
        return moments


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of a .npz; nothing is unpickled, and zip's checksums are verified."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            arrays = {}
            for name in {"mu.npy", "sigma.npy", "count.npy", "features.npy"}.intersection(archive.namelist()):
                with archive.open(name) as member:
                    arrays[name.removesuffix(".npy")] = read_array(member, allow_pickle=False)
            return arrays
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name another file") from None
    except (ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: not a whole .npz file ({reason}); copy it again, or make it again") from None


def _is_float(array: NDArray[np.generic]) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _check_values(path: Path, moments: Moments) -> None:
    covariance = moments.covariance
    if not (moments.mean.isfinite().all() and covariance.isfinite().all()):
        raise InputError(f"{path}: mu or sigma holds NaN or infinity; make it again")
    asymmetry = (covariance - covariance.T).abs().max()
    if (covariance.diagonal() < 0).any() or asymmetry > ASYMMETRY * covariance.abs().max():
        raise InputError(f"{path}: sigma is not a covariance (symmetric, no negative variance); make it again")


def _count(path: Path, count: NDArray[np.generic] | None) -> int:
    if count is None:
        return 0
    if count.shape != () or not np.issubdtype(count.dtype, np.integer) or int(count.item()) < 0:
        raise InputError(f"{path}: count is not one whole number; make it again")
    return int(count.item())


def _features(path: Path, features: NDArray[np.generic] | None) -> str | None:
    if features is None:
        return None
    if features.shape != () or features.dtype.kind != "U":
        raise InputError(f"{path}: features is not one text; make it again")
    return str(features.item())
