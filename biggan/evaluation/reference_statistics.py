"""Statistics of the real images: taken once by all processes, and cached beside the data set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biggan.data.dataset import Dataset, checksum
from biggan.data.preview import as_rgb, readable_in
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.feature_summary import Summary
from biggan.evaluation.features import Extractor
from biggan.evaluation.moments import Moments
from biggan.evaluation.partial import Partial, work_through
from biggan.evaluation.tensor_file import fits, prefixed, read_tensors, without_prefix, write_tensors
from biggan.generation.sample import CHUNK_IMAGES
from biggan.progress import Tick

FOLDER = "evaluation"
"""In the data set's folder: what was learnt of its images."""


@dataclass(frozen=True)
class RealSplit:
    """A split of a packed data set, whose statistics are taken."""

    dataset: Dataset
    root: str
    """The folder or URL it is read from."""
    split: str = "train"

    @property
    def count(self) -> int:
        """Images that the split declares."""
        return self.dataset.splits[self.split].images

    @property
    def cache(self) -> Path:
        """Where what was learnt of it is kept: beside it, or in the user's cache where that cannot be written."""
        folder = Path(self.root)
        if "://" not in self.root and os.access(folder, os.W_OK):
            return folder / FOLDER
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return caches / "biggan" / checksum(self.dataset)[:16]

    def batches(self, shard: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(first number, images uint8 [n, R, R, 3], labels [n]), CHUNK_IMAGES at most, of one shard: what can be read.

        Grey images are repeated to three channels, as extractors take them.
        The same batches on any number of processes. Raises DataError for a shard that is missing.
        """
        shards = self.dataset.splits[self.split].shards
        number = sum(s.images for s in shards[:shard])
        found = readable_in(self.dataset, self.root, shards[shard])
        while samples := list(islice(found, CHUNK_IMAGES)):
            images = np.stack([as_rgb(sample.image) for sample in samples if sample.image is not None])
            yield number, torch.from_numpy(images), torch.tensor([sample.label for sample in samples])
            number += len(samples)

    def shards_of(self, process: Process) -> dict[int, int]:
        """This process's share: number of the shard -> its images."""
        shards = self.dataset.splits[self.split].shards
        return {k: shards[k].images for k in range(process.rank, len(shards), process.world_size)}


class _Parts:
    """Summaries of the images, dealt out in turn."""

    def __init__(self, parts: list[Summary]):
        self.parts = parts

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for k, part in enumerate(self.parts):
            found |= prefixed(f"part{k}/", part.tensors())
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for k, part in enumerate(self.parts):
            part.restore(without_prefix(f"part{k}/", tensors))


def real_summaries(
    real: RealSplit, extractor: Extractor, kept: int, per_class: bool, parts: int, process: Process, tick: Tick
) -> list[Summary]:
    """Of all its images, or of each of `parts` parts (every second image in each of two). Collective.

    At most `kept` rows, evenly spaced, are kept of each part. From the cache where data set, features and preprocessing
    are the same. On rank 0 whole, on the others empty.
    """
    request: dict[str, Any] = {
        "data": checksum(real.dataset), "split": real.split, "features": extractor.identity, "kept": kept,
        "per_class": per_class, "parts": parts, "chunk": CHUNK_IMAGES,
    }  # fmt: skip
    file = _cache_file(real, request)
    every = max(1, -(-real.count // (kept * parts)))

    classes = len(real.dataset.classes) if per_class else 0
    share = _Parts(
        [Summary(extractor.dim, classes, lambda n: n // parts % every == 0, process.device) for _ in range(parts)]
    )
    if process.any(process.is_main and _restored(share, file, request)):
        return share.parts
    partial = Partial(real.cache / "partial", request, process)

    def do(shard: int) -> None:
        for first, images, labels in real.batches(shard):
            seen = extractor(images.to(process.device)).features
            for k, part in enumerate(share.parts):
                start = (k - first) % parts  # the first image here that is this part's
                numbers = range(first + start, first + len(labels), parts)
                part.add(numbers, labels[start::parts], seen[start::parts])

    process.together(lambda: work_through("real images", real.shards_of(process), do, share, partial, tick))
    whole = _Parts([part.combined(process) for part in share.parts])
    process.together(lambda: write_tensors(file, whole.tensors(), request) if process.is_main else None)
    partial.remove()
    return whole.parts


def _restored(parts: _Parts, file: Path, request: Mapping[str, Any]) -> bool:
    """Whether the cache has them: else, or where it holds something else, they are taken anew."""
    found = read_tensors(file)
    if found is None or found[1] != request or not fits(found[0], parts.tensors()):
        return False
    parts.restore(found[0])
    return True


def _cache_file(real: RealSplit, request: Mapping[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    return real.cache / f"real-{key[:16]}.safetensors"


def read_statistics(file: Path, extractor: Extractor, device: torch.device) -> Summary:
    """Moments that pytorch-fid, or `Moments.to_npz`, wrote; no rows.

    Raises InputError that names the file, also where they are, or may be, of other features.
    """
    try:
        moments = Moments.from_npz(file, extractor.dim)
    except InputError as error:
        raise InputError(f"--real-statistics: {error}") from None
    if moments.features is None and extractor.name != "inception":
        raise InputError(
            f"--real-statistics: {file}: does not say of which features it is, as pytorch-fid's files, which are of "
            f"inception; use --features inception, or a file of --write-statistics with {extractor.name} features"
        )
    if moments.features not in (None, extractor.identity):
        raise InputError(
            f"--real-statistics: {file}: of other features ({moments.features}) than those in use "
            f"({extractor.identity}); make it again with --write-statistics"
        )
    summary = Summary(extractor.dim, 0, lambda _: False, device)
    summary.moments = moments
    return summary
