"""Background thread that writes checkpoints and removes those that are no longer kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from biggan.runs.checkpoint import Checkpoint, max_size_bytes, remove_abandoned, save, thin
from biggan.runs.ring import Ring, pin_before


class Writer:
    """Background thread that writes checkpoints to `root`, one at a time, while training continues.

    Call `wait` before copying the state for `start`, so that at most one copy is in memory. The next `wait` or
    `raise_if_failed` raises an error of the thread (CheckpointError). The thread calls `warn(message)` when a pinned
    checkpoint is removed to stay within `ring.max_bytes`, or when the limit is exceeded, and `on_saved(step)` when a
    checkpoint is complete.
    """

    def __init__(
        self,
        root: Path,
        ring: Ring,
        warn: Callable[[str], object],
        on_saved: Callable[[int], object] = lambda _step: None,
    ):
        self._root, self._ring, self._warn, self._on_saved = root, ring, warn, on_saved
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def start(self, step: int, checkpoint: Checkpoint) -> None:
        """Start writing `checkpoint`: free space for it, write it, and remove checkpoints that are no longer kept."""
        assert self._pending is None, "wait first"
        self._pending = self._thread.submit(self._write, step, checkpoint)

    def _write(self, step: int, checkpoint: Checkpoint) -> None:
        if self._ring.max_bytes:
            thin(self._root, self._ring, self._warn, max_size_bytes(checkpoint))
        save(self._root, step, checkpoint)
        self._on_saved(step)
        remove_abandoned(self._root)
        thin(self._root, self._ring, self._warn)

    def pin(self, onset_step: int, good_step: int, reason: str) -> None:
        """Wait until the thread is idle, so that it removes nothing meanwhile, and call `ring.pin_before`."""
        self.wait()
        pin_before(self._root, onset_step, good_step, reason)

    def wait(self) -> None:
        """Wait until the checkpoint that was started is on disk; raises CheckpointError if writing it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def raise_if_failed(self) -> None:
        """Raise CheckpointError if the thread has failed, without waiting for it."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def close(self) -> None:
        """Finish the checkpoint that was started and end the thread."""
        self._thread.shutdown()
