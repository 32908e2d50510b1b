"""Mean and covariance of feature rows: streaming, over any number of processes, and in pytorch-fid's file format."""

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
"""Tolerance for the asymmetry of a covariance in a file, relative to its largest entry. Some files are float32."""


class Moments:
    """Mean and covariance of rows that arrive in batches, in float64.

    Batches are combined by deviations from their own means (Chan, Golub and LeVeque 1983, "Algorithms for Computing
    the Sample Variance", equations 2.1). The difference of a sum of squares and a squared sum would cancel if the mean
    is large compared with the spread. For the same reason all rows are taken relative to the first.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu"):
        """Start without rows; each row has `dim` numbers, and the state is on `device`."""
        self.count = 0
        """Number of rows; 0 if read from a file that does not state it."""
        self.features: str | None = None
        """Identity of the features (`Extractor.identity`) if read from a file that states it; otherwise None."""
        self._origin = torch.zeros(dim, dtype=torch.float64, device=device)
        self._mean = torch.zeros_like(self._origin)
        """Mean of (row - origin)."""
        self._scatter = self._mean.new_zeros(dim, dim)
        """Sum over rows of (row - mean)^T (row - mean)."""
        self._file_covariance: Tensor | None = None
        """Covariance read from a file; None if computed from rows."""

    @property
    def mean(self) -> Tensor:
        """Mean, float64 [dim]; 0 without rows."""
        return self._origin + self._mean

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, float64 [dim, dim], as numpy.cov, of at least 2 rows. Its rank is below their number."""
        if self._file_covariance is not None:
            return self._file_covariance
        assert self.count >= 2, "a covariance needs at least 2 rows"
        return self._scatter / (self.count - 1)

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Add rows [n, dim] of any float type, from any device; n may be 0."""
        assert self._file_covariance is None, "moments read from a file are final"
        if not len(rows):
            return
        rows = rows.to(self._mean)
        if not self.count:
            self._origin = rows[0].clone()
        rows = rows - self._origin
        batch_mean = rows.mean(0)
        total = self.count + len(rows)
        difference = batch_mean - self._mean
        # The difference of the two means enters as one more row, so that the update is a single product.
        between = difference * (self.count * len(rows) / total) ** 0.5
        deviations = torch.cat([rows - batch_mean, between.unsqueeze(0)])
        self._scatter.addmm_(deviations.T, deviations)
        self._mean += difference * (len(rows) / total)
        self.count = total

    @torch.no_grad()
    def combined(self, process: Process) -> Moments:
        """Return the moments of all processes' rows, the same on each; `self` on one process. Collective.

        Means are gathered, and each process's scatter about the common mean is summed. No process holds the scatter
        matrices of all.
        """
        if process.group is None:
            return self
        assert self._file_covariance is None, "moments read from a file are final"
        counts = process.gather(self.count)
        total = Moments(len(self._mean), self._mean.device)
        total.count = sum(counts)
        origins, means = all_gather_rows(torch.cat([self._origin, self._mean]), process.group).chunk(2, 1)
        total._origin = origins[counts.index(max(counts))].clone()  # the origin of a process that has rows
        means = means + (origins - total._origin)
        total._mean = torch.tensor(counts).to(means) @ means / max(total.count, 1)
        difference = means[process.rank] - total._mean
        # The copy waits for the collective, which this process might otherwise never wait for.
        scatter = torch.addr(self._scatter, difference, difference, alpha=self.count)
        total._scatter.copy_(all_reduce_sum(scatter, process.group))
        return total

    def tensors(self) -> dict[str, Tensor]:
        """Return the complete state, by name."""
        assert self._file_covariance is None, "moments read from a file are in that file"
        count = torch.tensor(self.count)
        return {"count": count, "origin": self._origin, "mean": self._mean, "scatter": self._scatter}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned, bit for bit."""
        self.count = int(tensors["count"])
        self._origin, self._mean, self._scatter = (
            tensors[name].to(self._mean.device) for name in ("origin", "mean", "scatter")
        )

    def to_npz(self, path: Path, features: str) -> None:
        """Write pytorch-fid's arrays `mu` [dim] and `sigma` [dim, dim], float64, and also `count` and `features`.

        `features` is the identity of the features (`Extractor.identity`). Atomic. Raises OSError.
        """
        content = io.BytesIO()
        mean, covariance = self.mean.cpu().numpy(), self.covariance.cpu().numpy()
        np.savez(content, mu=mean, sigma=covariance, count=np.array(self.count), features=np.array(features))
        write_atomically(path, content.getvalue())

    @classmethod
    def from_npz(cls, path: Path, dim: int | None = None) -> Moments:
        """Read a file of `to_npz` or of `python -m pytorch_fid --save-stats` into host memory. Rows cannot be added.

        Raises InputError if the file is missing, corrupt, has other contents, or has not `dim` features.
        """
        arrays = _read_arrays(path)
        mean, covariance = arrays.get("mu"), arrays.get("sigma")
        if mean is None or covariance is None or not (_is_float(mean) and _is_float(covariance)):
            raise InputError(f"{path}: has no float arrays mu and sigma; name a file of pytorch-fid's --save-stats")
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not len(mean):
            shapes = f"mu is {list(mean.shape)} and sigma {list(covariance.shape)}"
            raise InputError(f"{path}: {shapes}, not [n] and [n, n]; create it again")
        if dim is not None and len(mean) != dim:
            raise InputError(f"{path}: has {len(mean)} features, not {dim}; name a file of the features in use")
        moments = cls(len(mean))
        moments._mean = torch.from_numpy(mean.astype(np.float64))
        moments._file_covariance = torch.from_numpy(covariance.astype(np.float64))
        _check_values(path, moments)
        moments.count = _parse_count(path, arrays.get("count"))
        moments.features = _parse_features(path, arrays.get("features"))
        return moments


def _read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a .npz file. Nothing is unpickled, and the zip checksums are verified."""
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
        raise InputError(f"{path}: not a complete .npz file ({reason}); copy or create it again") from None


def _is_float(array: NDArray[np.generic]) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _check_values(path: Path, moments: Moments) -> None:
    covariance = moments.covariance
    if not (moments.mean.isfinite().all() and covariance.isfinite().all()):
        raise InputError(f"{path}: mu or sigma contains NaN or infinity; create it again")
    asymmetry = (covariance - covariance.T).abs().max()
    if (covariance.diagonal() < 0).any() or asymmetry > ASYMMETRY * covariance.abs().max():
        raise InputError(f"{path}: sigma is not symmetric, or has a negative variance; create it again")


def _parse_count(path: Path, count: NDArray[np.generic] | None) -> int:
    if count is None:
        return 0
    if count.shape != () or not np.issubdtype(count.dtype, np.integer) or int(count.item()) < 0:
        raise InputError(f"{path}: count is not one non-negative integer; create it again")
    return int(count.item())


def _parse_features(path: Path, features: NDArray[np.generic] | None) -> str | None:
    if features is None:
        return None
    if features.shape != () or features.dtype.kind != "U":
        raise InputError(f"{path}: features is not one string; create it again")
    return str(features.item())
