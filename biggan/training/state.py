"""Everything a resume needs, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from biggan.data.loader import Cursor
from biggan.training.checkpoint import Checkpoint
from biggan.training.step import Gan


@dataclass
class TrainingState:
    """The run between two steps, besides its data position. Latents need no state: they are keyed by the step."""

    gan: Gan
    statistics_images: int
    """Images whose BatchNorm statistics are taken together. Another number of processes must keep it."""
    step: int = 0
    """Generator steps done."""
    bad_samples: dict[str, str] = field(default_factory=dict)
    """Unreadable samples met so far: name -> reason."""

    def tensors(self, keep: bool) -> dict[str, dict[str, Tensor]]:
        """Copies, in this host's memory, of all tensors: file -> name -> tensor. Collective.

        Processes that do not `keep` them take part, since an engine may have the parts, and get empty files.
        """
        G, D = self.gan.generator, self.gan.discriminator
        files: dict[str, Iterable[tuple[str, Tensor]]] = {
            "generator": G.module.state_dict().items(),
            "discriminator": D.module.state_dict().items(),
            "ema": self.gan.ema.module.state_dict().items(),
            "g_optimizer": G.optimizer_state(),
            "d_optimizer": D.optimizer_state(),
        }
        return {file: {name: host_copy(t) for name, t in named if keep} for file, named in files.items()}

    def others(self, cursors: list[Cursor], classes: tuple[str, ...]) -> dict[str, Any]:
        """The rest, as JSON: with the data position of every stream and, for whoever samples, the class names."""
        return {
            "step": self.step,
            "statistics_images": self.statistics_images,
            "cursors": [list(cursor) for cursor in cursors],
            "bad_samples": dict(self.bad_samples),
            "classes": list(classes),
        }

    def restore(self, checkpoint: Checkpoint) -> list[Cursor]:
        """Become the state that was saved, by networks of the same shape; return the streams' positions."""
        saved = checkpoint.tensors
        self.gan.generator.restore(saved["generator"], saved["g_optimizer"])
        self.gan.discriminator.restore(saved["discriminator"], saved["d_optimizer"])
        self.gan.ema.module.load_state_dict(saved["ema"])
        self.step = checkpoint.state["step"]
        self.bad_samples = dict(checkpoint.state["bad_samples"])
        return [Cursor(*cursor) for cursor in checkpoint.state["cursors"]]


def host_copy(x: Tensor) -> Tensor:
    """A contiguous copy in host memory, which training does not touch."""
    return torch.empty(x.shape, dtype=x.dtype).copy_(x.detach())
