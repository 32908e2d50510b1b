"""Samples to batches: every rank, and every reading process in it, serves neighbouring streams.

Every global batch takes the same number of samples from each stream. So the global batches depend on the config alone,
not on how many processes or readers there are, and a loader goes on exactly from its streams' cursors.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from biggan.data.stream import Cursor, ReadPlan, Sample, stream_pipeline
from biggan.distributed.timeout import wait_for_other_threads
from biggan.errors import DataError


@dataclass(frozen=True)
class Part:
    """What one reading process adds to a micro-batch. Arrays: each tensor would cross processes as a file
    descriptor, which costs the training process more than the bytes of a small part do."""

    images: NDArray[np.uint8]
    """[n, R, R, C]."""
    labels: NDArray[np.int64]
    """[n]."""
    names: list[str]
    cursors: list[Cursor]
    """Of its streams, after these samples."""
    bad: dict[str, str]
    """Unreadable samples met on the way: name -> reason."""
    fatal: str | None = None
    """Why reading cannot go on; the other fields are empty then."""


class StreamReader(IterableDataset[Part]):
    """The endless parts of some neighbouring streams, shared out over this loader's reading processes."""

    def __init__(self, plan: ReadPlan, streams: range, cursors: list[Cursor], per_stream: int):
        super().__init__()
        self.plan, self.streams, self.cursors, self.per_stream = plan, streams, cursors, per_stream

    def __iter__(self) -> Iterator[Part]:
        worker = get_worker_info()
        share, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        mine = range(len(self.streams) * share // of, len(self.streams) * (share + 1) // of)
        cursors = [self.cursors[k] for k in mine]
        pipelines = [iter(stream_pipeline(self.plan, self.streams[k], self.cursors[k])) for k in mine]
        try:
            while True:
                yield self._part(pipelines, cursors)
        except DataError as error:  # as a value: an exception would cross processes as a page of traceback
            yield Part(np.empty(0, np.uint8), np.empty(0, np.int64), [], [], {}, fatal=str(error))

    def _part(self, pipelines: list[Iterator[Sample]], cursors: list[Cursor]) -> Part:
        taken: list[Sample] = []
        bad: dict[str, str] = {}
        misses = 0
        for k, pipeline in enumerate(pipelines):
            wanted = len(taken) + self.per_stream
            while len(taken) < wanted:
                sample = next(pipeline)
                cursors[k] = sample.after
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
        return Part(images, labels, [s.name for s in taken], list(cursors), bad)


def too_many_bad(count: int, limit: int, bad: dict[str, str]) -> str:
    """The message that ends a run whose data is damaged."""
    name, reason = next(iter(bad.items()))
    return f"data.max_bad_samples: {count} unreadable samples, at most {limit} allowed; first: {name}: {reason}"


def _live_as_long_as_the_parent(_worker: int) -> None:
    """A terminal's Ctrl-C or a scheduler's SIGTERM reaches readers too; training ends them, or its death."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """Where it was killed, nobody empties the pipe that this process may be writing to, for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a reader is a child"
    parent.join()
    os._exit(1)


class Loader:
    """This rank's micro-batches, without end: an iterator. Close it when done.

    `cursors` (of this rank's streams) and `bad` (unreadable samples met so far) belong to the batches
    handed out, not to those read ahead.
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
        assert plan.streams % world_size == 0, "the config checked this"
        assert micro_batch_size % plan.streams == 0, "the config checked this"
        share = plan.streams // world_size
        streams = range(rank * share, (rank + 1) * share)
        self.cursors = cursors[streams.start : streams.stop]
        self.bad: dict[str, str] = {}
        self.names: list[str] = []
        """Of the samples in the batch handed out last."""
        self._readers = min(workers, share)
        others = set(multiprocessing.active_children())
        if self._readers:
            wait_for_other_threads()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")  # on purpose: `data.workers`
            parts = DataLoader(
                StreamReader(plan, streams, self.cursors, micro_batch_size // plan.streams),
                batch_size=None,
                num_workers=self._readers,
                prefetch_factor=4 if self._readers else None,
                worker_init_fn=_live_as_long_as_the_parent,
            )
            # Here, so that the readers are forked before whatever threads the caller starts next.
            self._parts = iter(parts)
        self._processes = set(multiprocessing.active_children()) - others

    def close(self) -> None:
        """End the readers: an error on its way out would keep them, and they this process, alive."""
        shutdown = getattr(self._parts, "_shutdown_workers", None)  # torch calls it from __del__ only
        if shutdown is not None:
            shutdown()
        for process in self._processes:
            process.kill()  # one that hangs in a read; they do not hear SIGTERM

    def __next__(self) -> tuple[Tensor, Tensor]:
        """(images uint8 [n, C, R, R] in channels-last memory, labels int64 [n]); raises DataError."""
        # The parts of the readers come in turn, hence in the order of their streams.
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
    """uint8, as the loader gives them -> float32 in [-1, 1], as the networks take them."""
    return images.to(torch.float32).div_(127.5).sub_(1)
