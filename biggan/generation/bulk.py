"""Many images, by number, written by any number of processes: `biggan sample RUN --num 50000`.

Image k of a request is the same whatever else is made with it: its latents are keyed by (seed, k), its class is number
k of the classes taken in turn, and chunk c always holds images from c * CHUNK_IMAGES on.
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
MOST_WRITERS = 16
"""Threads of a process that encode and write."""


@dataclass(frozen=True)
class BulkRequest:
    """What the bits of the images depend on."""

    generator: str
    """`digest` of the generator, before its BatchNorm statistics are taken anew."""
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    """Their numbers; image k is of class k % len(labels) of these."""
    images: int
    truncation: float | None
    seed: int
    standing: bool
    """BatchNorm's statistics: taken anew for the truncation, or the running ones of training."""

    def chunks(self) -> list[range]:
        """The numbers of all images, as they are made together."""
        return [range(k, min(k + CHUNK_IMAGES, self.images)) for k in range(0, self.images, CHUNK_IMAGES)]


class Output(Protocol):
    """Where images go. A chunk, and the whole, is there completely or not at all; files are those of one request."""

    path: Path

    def begin(self) -> list[range]:
        """Make room, or find what an interrupted call left; returns the chunks that are missing."""

    def write(self, numbers: range, images: NDArray[np.uint8]) -> None:
        """Write one chunk, uint8 [n, R, R, 3]. Any process, any thread."""

    def finish(self) -> None:
        """All chunks are there."""


def digest(generator: Generator) -> str:
    """16 hex digits of the SHA-256 of the generator's parameters and buffers."""
    found = hashlib.sha256()
    for name, tensor in generator.state_dict().items():
        found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def make_numbered(
    generator: Generator, request: BulkRequest, numbers: range, device: torch.device
) -> NDArray[np.uint8]:
    """uint8 [len(numbers), R, R, 3] of one of `request.chunks()`."""
    z = draw_latents(numbers, generator, request.truncation, request.seed)
    y = torch.tensor([request.labels[k % len(request.labels)] for k in numbers])
    return generate(generator, z, y, device)


def write_images(generator: Generator, request: BulkRequest, output: Output, process: Process, tick: Tick) -> None:
    """Make what `output` lacks of `request`, shared out over the processes. Collective.

    `generator` is in eval mode and on the device, with the statistics that the request says. `tick` hears
    of images as they are made, first of those that are there already. Raises InputError, on all processes, if one of
    them cannot write.
    """
    if any(other != request for other in process.gather(request)):
        raise InputError("the processes do not see the same checkpoint: name one, as in RUN@STEP, for all of them")
    todo = _together(process, output, lambda: output.begin() if process.is_main else [])
    todo = process.gather(todo)[0]
    done = request.images - sum(map(len, todo))
    tick("images", done, request.images)
    with ThreadPoolExecutor(writers_of(process)) as pool:
        maker = _Maker(generator, request, output, process.device, pool, writers_of(process))
        for first in range(0, len(todo), process.world_size):
            turn = todo[first : first + process.world_size]
            # Turn by turn, so that all hear at once of a full disk, and rank 0 knows how far all of them are.
            _together(process, output, partial(maker.make, turn[process.rank : process.rank + 1]))
            done += sum(map(len, turn))
            tick("images", done, request.images)
        _together(process, output, maker.wait)
    _together(process, output, lambda: output.finish() if process.is_main else None)


def writers_of(process: Process) -> int:
    """Threads that encode and write: this process's share of the machine's cores."""
    return min(MOST_WRITERS, max(1, len(os.sched_getaffinity(0)) // process.hosts.count(process.host)))


class _Maker:
    """Makes chunks, while those before are written: Pillow's encoder leaves Python's lock to the others."""

    def __init__(
        self,
        generator: Generator,
        request: BulkRequest,
        output: Output,
        device: torch.device,
        pool: ThreadPoolExecutor,
        most_waiting: int,
    ):
        self.generator, self.request, self.output, self.device = generator, request, output, device
        self._pool, self._most_waiting = pool, most_waiting
        self._waiting: deque[Future[None]] = deque()

    def make(self, chunks: list[range]) -> None:
        """Make these, and have them written; raises what writing an earlier one raised."""
        for numbers in chunks:
            self.wait(self._most_waiting)
            images = make_numbered(self.generator, self.request, numbers, self.device)
            self._waiting.append(self._pool.submit(self.output.write, numbers, images))

    def wait(self, most: int = 0) -> None:
        """Until at most so many chunks are in memory."""
        while len(self._waiting) > most:
            self._waiting.popleft().result()


def _together(process: Process, output: Output, action: Callable[[], T]) -> T:
    """`action` on every process; what one of them cannot write is an InputError on all. Collective."""

    def guarded() -> T:
        try:
            return action()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"--out: {output.path}: cannot be written ({reason}); mend that, and the same command goes on"
            ) from None

    return process.together(guarded)
