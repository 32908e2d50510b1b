"""Everything a resume needs, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from biggan.collapse.detector import Level
from biggan.collapse.monitor import Monitor
from biggan.data.stream import Cursor
from biggan.errors import InputError
from biggan.gan import Gan
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.rollback import Rollback


@dataclass
class TrainingState:
    """The run between two steps, besides its data position. Latents need no state: they are keyed by the step."""

    gan: Gan
    monitor: Monitor
    statistics_images: int
    """Images whose BatchNorm statistics are taken together. Another number of processes must keep it."""
    step: int = 0
    """Generator steps done."""
    rollbacks: int = 0
    """Rollbacks done: they choose the seed of what follows, and what is done against another collapse."""
    images_seen: int = 0
    """Real images that D was shown."""
    since_step: int = 0
    """Where the intervention in force began: 0, the first step of a child run, or where the last rollback went."""
    level: Level = Level.HEALTHY
    """Of the last verdict that was answered: an alarm that lasts is said once."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """The last one: step, metric, metrics by name, protocol."""
    bad_samples: dict[str, str] = field(default_factory=dict)
    """Unreadable samples met so far: name -> reason."""

    def tensors(self, keep: bool) -> dict[str, dict[str, Tensor]]:
        """Copies, in this host's memory, of all tensors: file -> name -> tensor. Collective.

        Processes that do not `keep` them take part, since an engine may have the parts, and get empty files.
        """
        files = trained_tensors(self.gan) | {file: named.items() for file, named in self.monitor.tensors().items()}
        return {file: {name: host_copy(t) for name, t in named if keep} for file, named in files.items()}

    def others(self, cursors: list[Cursor], classes: tuple[str, ...]) -> dict[str, Any]:
        """The rest, as JSON: with the data position of every stream and, for whoever samples, the class names."""
        return {
            "step": self.step,
            "rollbacks": self.rollbacks,
            "since_step": self.since_step,
            "images_seen": self.images_seen,
            "level": self.level,
            "statistics_images": self.statistics_images,
            "evaluation": self.evaluation if self.evaluation.get("step") == self.step else None,
            "cursors": [list(cursor) for cursor in cursors],
            "bad_samples": dict(self.bad_samples),
            "classes": list(classes),
        }

    def restore(self, checkpoint: Checkpoint) -> list[Cursor]:
        """Become the state that was saved, by networks of the same shape; return the streams' positions."""
        saved = checkpoint.tensors
        if "history" not in saved:
            raise InputError("run.dir: its checkpoints are of an earlier version of biggan; go on with that one")
        self.gan.generator.restore(saved["generator"], saved["g_optimizer"])
        self.gan.discriminator.restore(saved["discriminator"], saved["d_optimizer"])
        self.gan.ema.module.load_state_dict(saved["ema"])
        self.monitor.restore(saved)
        self.step = checkpoint.state["step"]
        self.rollbacks, self.since_step = checkpoint.state["rollbacks"], checkpoint.state["since_step"]
        self.images_seen = checkpoint.state["images_seen"]
        self.level = Level(checkpoint.state["level"])
        self.bad_samples = dict(checkpoint.state["bad_samples"])
        return [Cursor(*cursor) for cursor in checkpoint.state["cursors"]]

    def apply_rollback(self, last: Rollback | None) -> None:
        """Take the run's last rollback into account: the checkpoint it went back to was written before it."""
        if last is not None and self.rollbacks < last.count:
            self.rollbacks, self.since_step = last.count, min(last.to_step, self.step)


def trained_tensors(gan: Gan) -> dict[str, Iterable[tuple[str, Tensor]]]:
    """The networks, their average, their optimizers: file -> (name, tensor), not copied. Taking them is collective."""
    G, D = gan.generator, gan.discriminator
    return {
        "generator": G.module.state_dict().items(),
        "discriminator": D.module.state_dict().items(),
        "ema": gan.ema.module.state_dict().items(),
        "g_optimizer": G.optimizer_state(),
        "d_optimizer": D.optimizer_state(),
    }


def host_copy(x: Tensor) -> Tensor:
    """A contiguous copy in host memory, which training does not touch."""
    return torch.empty(x.shape, dtype=x.dtype).copy_(x.detach())
