"""Batches from samples. Every rank, and every reader process of a rank, serves consecutive streams.

Every global batch takes the same number of samples from each stream. The global batches therefore depend on the config
alone, not on the number of ranks or readers, and a loader resumes exactly from the cursors of its streams.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from biggan.data.child_process import tie_to_parent
from biggan.data.stream import Cursor, ReadPlan, Sample, stream_pipeline
from biggan.distributed.timeout import wait_for_other_threads
from biggan.errors import DataError, InputError
from biggan.stop_signals import signals_blocked


@dataclass(frozen=True)
class PartialBatch:
    """One reader's contribution to a micro-batch.

    The fields are arrays, not tensors: a tensor crosses processes as a file descriptor, which costs the training
    process more than copying the bytes of a small part.
    """

    images: NDArray[np.uint8]
    """[n, R, R, C]."""
    labels: NDArray[np.int64]
    """[n]."""
    names: list[str]
    cursors: list[Cursor]
    """Cursors of the reader's streams after these samples."""
    bad: dict[str, str]
    """Unreadable samples that were skipped: name -> reason."""
    fatal: str | None = None
    """Error message if reading failed; the other fields are then empty."""


class StreamReader(IterableDataset[PartialBatch]):
    """Endless parts of consecutive streams, divided over the reader processes of this loader."""

    def __init__(self, plan: ReadPlan, streams: range, cursors: list[Cursor], per_stream: int):
        super().__init__()
        self.plan, self.streams, self.cursors, self.per_stream = plan, streams, cursors, per_stream

    def __iter__(self) -> Iterator[PartialBatch]:
        worker = get_worker_info()
        reader, readers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        mine = range(len(self.streams) * reader // readers, len(self.streams) * (reader + 1) // readers)
        cursors = [self.cursors[k] for k in mine]
        pipelines = [iter(stream_pipeline(self.plan, self.streams[k], self.cursors[k])) for k in mine]
        try:
            while True:
                yield self._part(pipelines, cursors)
        except (DataError, InputError) as error:  # sent as a value: an exception would arrive with its traceback
            yield PartialBatch(np.empty(0, np.uint8), np.empty(0, np.int64), [], [], {}, fatal=str(error))

    def _part(self, pipelines: list[Iterator[Sample]], cursors: list[Cursor]) -> PartialBatch:
        taken: list[Sample] = []
        bad: dict[str, str] = {}
        misses = 0
        for k, pipeline in enumerate(pipelines):
            target = len(taken) + self.per_stream
            while len(taken) < target:
                sample = next(pipeline)
                cursors[k] = sample.next_cursor
                if sample.error is None:
                    taken.append(sample)
                    continue
                bad[sample.name] = sample.error
                misses += 1
                if len(bad) > self.plan.max_bad_samples:
                    raise DataError(too_many_bad(len(bad), self.plan.max_bad_samples, bad))
                if misses > sum(shard.images for shard in self.plan.shards):
                    raise DataError(f"a stream has no readable sample; first: {next(iter(bad.items()))}")
        images = np.stack([s.image for s in taken if s.image is not None])
        labels = np.array([s.label for s in taken], np.int64)
        return PartialBatch(images, labels, [s.name for s in taken], list(cursors), bad)


def too_many_bad(count: int, limit: int, bad: dict[str, str]) -> str:
    """Return the message for a run that has more than `limit` unreadable samples."""
    name, reason = next(iter(bad.items()))
    return f"data.max_bad_samples: {count} unreadable samples, at most {limit} allowed; first: {name}: {reason}"


class Loader:
    """Endless iterator over this rank's micro-batches. Call `close` when done.

    `cursors` (of this rank's streams) and `bad` (unreadable samples so far) describe the batches already returned,
    not those prefetched.
    """

    def __init__(
        self,
        plan: ReadPlan,
        *,
        micro_batch_size: int,
        cursors: list[Cursor],
        rank: int,
        world_size: int,
        workers: int,
    ):
        assert len(cursors) == plan.streams, "one cursor per stream"
        assert plan.streams % world_size == 0, "the config checks this"
        assert micro_batch_size % plan.streams == 0, "the config checks this"
        streams_per_rank = plan.streams // world_size
        streams = range(rank * streams_per_rank, (rank + 1) * streams_per_rank)
        self.cursors = cursors[streams.start : streams.stop]
        self.bad: dict[str, str] = {}
        self.names: list[str] = []
        """Names of the samples in the batch returned last."""
        self._readers = min(workers, streams_per_rank)
        other_children = set(multiprocessing.active_children())
        if self._readers:
            wait_for_other_threads()
        with warnings.catch_warnings():
            # The user chose the number of readers with data.workers.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            parts = DataLoader(
                StreamReader(plan, streams, self.cursors, micro_batch_size // plan.streams),
                batch_size=None,
                num_workers=self._readers,
                prefetch_factor=4 if self._readers else None,
                worker_init_fn=tie_to_parent,
            )
            # iter() forks the readers; do it here, before the caller starts threads.
            with signals_blocked():
                self._parts = iter(parts)
        self._processes = set(multiprocessing.active_children()) - other_children

    def close(self) -> None:
        """End the readers. An exception keeps the loader referenced, and live readers block the process's exit."""
        shutdown = getattr(self._parts, "_shutdown_workers", None)  # torch calls it from __del__ only
        if shutdown is not None:
            shutdown()
        for process in self._processes:
            process.kill()  # one may hang in a read, and readers ignore SIGTERM

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Return images uint8 [n, C, R, R] in channels-last memory and labels int64 [n]; raise DataError."""
        # DataLoader returns the readers' parts round-robin, hence in the order of their streams.
        batch = [next(self._parts) for _ in range(max(1, self._readers))]
        for part in batch:
            if part.fatal is not None:
                raise DataError(part.fatal)
        self.cursors = [cursor for part in batch for cursor in part.cursors]
        self.names = [name for part in batch for name in part.names]
        for part in batch:
            self.bad |= part.bad
        images = torch.from_numpy(np.concatenate([part.images for part in batch]))
        labels = torch.from_numpy(np.concatenate([part.labels for part in batch]))
        return images.permute(0, 3, 1, 2), labels

    def __iter__(self) -> Loader:
        return self


def to_unit(images: Tensor) -> Tensor:
    """Convert uint8 images from the loader to float32 in [-1, 1], the networks' input range."""
    return images.to(torch.float32).div_(127.5).sub_(1)
