"""Feature statistics of the real images, computed once by all processes and cached beside the data set."""

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
from biggan.data.preview import as_rgb, readable_samples_in_shard
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.feature_summary import FeatureSummary
from biggan.evaluation.features import Extractor
from biggan.evaluation.moments import Moments
from biggan.evaluation.resumable import PartialFile, process_units
from biggan.evaluation.tensor_file import fits, prefixed, read_tensors, without_prefix, write_tensors
from biggan.generation.sample import CHUNK_IMAGES
from biggan.progress import Tick

FOLDER = "evaluation"
"""Folder of caches inside the data set's folder."""


@dataclass(frozen=True)
class RealSplit:
    """A split of a packed data set that generated images are compared with."""

    dataset: Dataset
    root: str
    """Folder or URL of the data set."""
    split: str = "train"

    @property
    def count(self) -> int:
        """Number of images that the split declares."""
        return self.dataset.splits[self.split].images

    @property
    def cache(self) -> Path:
        """Folder of caches: in the data set's folder, or in the user's cache if that is not writable."""
        folder = Path(self.root)
        if "://" not in self.root and os.access(folder, os.W_OK):
            return folder / FOLDER
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return caches / "biggan" / checksum(self.dataset)[:16]

    def batches(self, shard: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (first number, images uint8 [n, R, R, 3], labels int64 [n]) of the readable images of one shard.

        n is at most CHUNK_IMAGES. Grey images are repeated to three channels, which extractors require. The batches
        are the same on any number of processes. Raises DataError for a shard that is missing.
        """
        shards = self.dataset.splits[self.split].shards
        number = sum(s.images for s in shards[:shard])
        samples_left = readable_samples_in_shard(self.dataset, self.root, shards[shard])
        while samples := list(islice(samples_left, CHUNK_IMAGES)):
            images = np.stack([as_rgb(sample.image) for sample in samples if sample.image is not None])
            yield number, torch.from_numpy(images), torch.tensor([sample.label for sample in samples])
            number += len(samples)

    def shards_of(self, process: Process) -> dict[int, int]:
        """Return this process's shards: index of the shard -> its number of images."""
        shards = self.dataset.splits[self.split].shards
        return {k: shards[k].images for k in range(process.rank, len(shards), process.world_size)}


class _Parts:
    """Summaries of disjoint parts of the images; image number n belongs to part n mod parts."""

    def __init__(self, parts: list[FeatureSummary]):
        self.parts = parts

    def tensors(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for k, part in enumerate(self.parts):
            state |= prefixed(f"part{k}/", part.tensors())
        return state

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for k, part in enumerate(self.parts):
            part.restore(without_prefix(f"part{k}/", tensors))


def real_summaries(
    real: RealSplit, extractor: Extractor, kept: int, per_class: bool, parts: int, process: Process, tick: Tick
) -> list[FeatureSummary]:
    """Return one summary for each of `parts` parts of the images; with 2, each has every second image. Collective.

    Each part keeps at most `kept` rows, evenly spaced. Summaries come from the cache if data set, features and
    preprocessing are the same; then they are complete on rank 0 and empty on the others.
    """
    request: dict[str, Any] = {
        "data": checksum(real.dataset), "split": real.split, "features": extractor.identity, "kept": kept,
        "per_class": per_class, "parts": parts, "chunk": CHUNK_IMAGES,
    }  # fmt: skip
    file = _cache_file(real, request)
    keep_every = max(1, -(-real.count // (kept * parts)))

    classes = len(real.dataset.classes) if per_class else 0
    local = _Parts(
        [
            FeatureSummary(extractor.dim, classes, lambda n: n // parts % keep_every == 0, process.device)
            for _ in range(parts)
        ]
    )
    if process.any(process.is_main and _restore_cached(local, file, request)):
        return local.parts
    partial = PartialFile(real.cache / "partial", request, process)

    def add_shard(shard: int) -> None:
        for first, images, labels in real.batches(shard):
            features = extractor(images.to(process.device)).features
            for k, part in enumerate(local.parts):
                start = (k - first) % parts  # index in this batch of the part's first image
                numbers = range(first + start, first + len(labels), parts)
                part.add(numbers, labels[start::parts], features[start::parts])

    process.together(lambda: process_units("real images", real.shards_of(process), add_shard, local, partial, tick))
    total = _Parts([part.combined(process) for part in local.parts])
    process.together(lambda: write_tensors(file, total.tensors(), request) if process.is_main else None)
    partial.remove()
    return total.parts


def _restore_cached(parts: _Parts, file: Path, request: Mapping[str, Any]) -> bool:
    """Restore the summaries from the cache and return True; return False if it has none that fit the request."""
    saved = read_tensors(file)
    if saved is None or saved[1] != request or not fits(saved[0], parts.tensors()):
        return False
    parts.restore(saved[0])
    return True


def _cache_file(real: RealSplit, request: Mapping[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    return real.cache / f"real-{key[:16]}.safetensors"


def read_statistics(file: Path, extractor: Extractor, device: torch.device) -> FeatureSummary:
    """Return a summary with the moments that pytorch-fid or `Moments.to_npz` wrote, and no rows.

    Raises InputError that names the file, also if its features are, or may be, different ones.
    """
    try:
        moments = Moments.from_npz(file, extractor.dim)
    except InputError as error:
        raise InputError(f"--real-statistics: {error}") from None
    if moments.features is None and extractor.name != "inception":
        raise InputError(
            f"--real-statistics: {file}: does not state its features and is taken for inception's, as pytorch-fid's "
            f"files are; use --features inception, or a file of --write-statistics with {extractor.name} features"
        )
    if moments.features not in (None, extractor.identity):
        raise InputError(
            f"--real-statistics: {file}: has other features ({moments.features}) than those in use "
            f"({extractor.identity}); create it again with --write-statistics"
        )
    summary = FeatureSummary(extractor.dim, 0, lambda _: False, device)
    summary.moments = moments
    return summary
