"""Writes many images, by index, on any number of processes: `biggan sample RUN --num 50000`.

Image k of a request does not depend on the others: its latents are keyed by (seed, k), its class is entry k of the
repeated list of classes, and chunk c always holds the images from index c * CHUNK_IMAGES on.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.generation.sample import CHUNK_IMAGES, generate
from biggan.generation.truncation import draw_latents
from biggan.models.networks import Generator
from biggan.progress import Tick

T = TypeVar("T")
MAX_WRITER_THREADS = 16
"""Largest number of threads of one process that encode and write."""


@dataclass(frozen=True)
class BulkRequest:
    """Everything that the bits of the images depend on."""

    generator: str
    """`digest` of the generator with the running BatchNorm statistics of training."""
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    """Numbers of the classes. Image k is of class k % len(labels) in this list."""
    images: int
    truncation: float | None
    seed: int
    standing: bool
    """True for standing BatchNorm statistics at the truncation, False for the running statistics of training."""

    def chunks(self) -> list[range]:
        """Return the indices of all images, grouped into the chunks that are made together."""
        return [range(k, min(k + CHUNK_IMAGES, self.images)) for k in range(0, self.images, CHUNK_IMAGES)]


class Output(Protocol):
    """Destination of a request's images. A chunk, and the whole output, exists completely or not at all."""

    path: Path

    def prepare(self) -> list[range]:
        """Create the destination, or reopen that of an interrupted command; return the chunks that are missing."""

    def write(self, indices: range, images: NDArray[np.uint8]) -> None:
        """Write one chunk, uint8 [n, R, R, 3]. May be called by any process and thread."""

    def finish(self) -> None:
        """Complete the output, once all chunks are written."""


def digest(generator: Generator) -> str:
    """Return 16 hex digits of the SHA-256 of the generator's parameters and buffers."""
    sha256 = hashlib.sha256()
    for name, tensor in generator.state_dict().items():
        sha256.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()[:16]


def generate_chunk(
    generator: Generator, request: BulkRequest, indices: range, device: torch.device
) -> NDArray[np.uint8]:
    """Return the images uint8 [len(indices), R, R, 3] of one of `request.chunks()`."""
    z = draw_latents(indices, generator, request.truncation, request.seed)
    y = torch.tensor([request.labels[k % len(request.labels)] for k in indices])
    return generate(generator, z, y, device)


def write_images(generator: Generator, request: BulkRequest, output: Output, process: Process, tick: Tick) -> None:
    """Make and write the images of `request` that `output` lacks, divided among the processes. Collective.

    `generator` is in evaluation mode, on the device, with the BatchNorm statistics that the request names. `tick`
    reports the number of images as they are made, and first the number that already exists. Raises InputError on all
    processes if one of them cannot write.
    """
    if any(other != request for other in process.gather(request)):
        raise InputError("RUN: the processes do not see the same checkpoint; name one for all of them, as in RUN@STEP")
    todo = _on_all_processes(process, output, lambda: output.prepare() if process.is_main else [])
    todo = process.gather(todo)[0]
    done = request.images - sum(map(len, todo))
    tick("images", done, request.images)
    with ThreadPoolExecutor(writer_threads(process)) as pool:
        pipeline = _ChunkPipeline(generator, request, output, process.device, pool, writer_threads(process))
        for first in range(0, len(todo), process.world_size):
            turn = todo[first : first + process.world_size]
            # One chunk per process and turn: all learn of a full disk at once, and rank 0 knows everybody's progress.
            _on_all_processes(process, output, partial(pipeline.make, turn[process.rank : process.rank + 1]))
            done += sum(map(len, turn))
            tick("images", done, request.images)
        _on_all_processes(process, output, pipeline.wait)
    _on_all_processes(process, output, lambda: output.finish() if process.is_main else None)


def writer_threads(process: Process) -> int:
    """Return the number of threads that encode and write: the cores of the machine divided by its processes."""
    return min(MAX_WRITER_THREADS, max(1, len(os.sched_getaffinity(0)) // process.hosts.count(process.host)))


class _ChunkPipeline:
    """Generator of chunks that are written in the background; Pillow's encoder releases Python's global lock."""

    def __init__(
        self,
        generator: Generator,
        request: BulkRequest,
        output: Output,
        device: torch.device,
        pool: ThreadPoolExecutor,
        max_pending: int,
    ):
        self.generator, self.request, self.output, self.device = generator, request, output, device
        self._pool, self._max_pending = pool, max_pending
        self._pending: deque[Future[None]] = deque()

    def make(self, chunks: list[range]) -> None:
        """Make these chunks and submit them for writing; raise the error of an earlier write, if there is one."""
        for indices in chunks:
            self.wait(self._max_pending)
            images = generate_chunk(self.generator, self.request, indices, self.device)
            self._pending.append(self._pool.submit(self.output.write, indices, images))

    def wait(self, max_pending: int = 0) -> None:
        """Wait until at most `max_pending` chunks are in memory."""
        while len(self._pending) > max_pending:
            self._pending.popleft().result()


def _on_all_processes(process: Process, output: Output, action: Callable[[], T]) -> T:
    """Run `action` on every process; raise InputError on all if one of them cannot write. Collective."""

    def guarded() -> T:
        try:
            return action()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"--out: {output.path}: cannot be written ({reason}); fix it and rerun the same command to resume"
            ) from None

    return process.together(guarded)
