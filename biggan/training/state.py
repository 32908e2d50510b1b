"""The state of a run: everything a resume needs, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from biggan.collapse.detector import Alarm, Level
from biggan.collapse.monitor import Monitor
from biggan.data.stream import Cursor
from biggan.errors import InputError
from biggan.gan import Gan
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.rollback import Rollback


@dataclass
class TrainingState:
    """The run between two steps, except its data position. Latents need no state: they are keyed by the step."""

    gan: Gan
    monitor: Monitor
    statistics_images: int
    """Number of images that share BatchNorm statistics. A resume on another number of processes must keep it."""
    step: int = 0
    """Generator steps done."""
    rollbacks: int = 0
    """Rollbacks done. They determine the seed of the trajectory and the intervention in force."""
    images_seen: int = 0
    """Real images shown to D."""
    since_step: int = 0
    """G step after which the intervention in force started: 0, a child run's first step, or the last rollback's."""
    data_seed: int | None = None
    """Seed of the data order before rollbacks. A child run has its parent's seed; None is `run.seed`."""
    level: Level = Level.HEALTHY
    """Level of the last verdict. An active alarm is reported once."""
    alarm: Alarm | None = None
    """The active alarm; None without one."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """The last evaluation: step, metric, metrics by name, protocol."""
    bad_samples: dict[str, str] = field(default_factory=dict)
    """Unreadable samples met so far: name -> reason."""

    def tensors(self, keep: bool) -> dict[str, dict[str, Tensor]]:
        """Return copies of all tensors in host memory: file -> name -> tensor. Collective.

        Processes without `keep` take part, since an engine may hold partitions of the state, and get empty files.
        """
        files = trained_tensors(self.gan) | {file: named.items() for file, named in self.monitor.tensors().items()}
        return {file: {name: host_copy(t) for name, t in named if keep} for file, named in files.items()}

    def others(self, cursors: list[Cursor], classes: tuple[str, ...]) -> dict[str, Any]:
        """Return the rest as JSON, with the data position of every stream and the class names that sampling needs."""
        return {
            "step": self.step,
            "rollbacks": self.rollbacks,
            "since_step": self.since_step,
            "images_seen": self.images_seen,
            "data_seed": self.data_seed,
            "level": self.level,
            "alarm": None if self.alarm is None else [self.alarm.onset_step, list(self.alarm.signals)],
            "statistics_images": self.statistics_images,
            "evaluation": self.evaluation if self.evaluation.get("step") == self.step else None,
            "cursors": [list(cursor) for cursor in cursors],
            "bad_samples": dict(self.bad_samples),
            "classes": list(classes),
        }

    def restore(self, checkpoint: Checkpoint) -> list[Cursor]:
        """Restore the saved state of networks of the same shape; return every stream's position.

        Raises InputError for checkpoints of earlier versions.
        """
        saved = checkpoint.tensors
        if "history" not in saved:
            raise InputError("run.dir: checkpoints of an earlier version of biggan; resume with that version")
        self.gan.generator.restore(saved["generator"], saved["g_optimizer"])
        self.gan.discriminator.restore(saved["discriminator"], saved["d_optimizer"])
        self.gan.ema.module.load_state_dict(saved["ema"])
        self._restore_techniques(saved.get("techniques", {}))
        self.monitor.restore(saved)
        self.step = checkpoint.state["step"]
        self.rollbacks, self.since_step = checkpoint.state["rollbacks"], checkpoint.state["since_step"]
        self.images_seen = checkpoint.state["images_seen"]
        self.data_seed = checkpoint.state.get("data_seed")
        self.level = Level(checkpoint.state["level"])
        alarm = checkpoint.state.get("alarm")  # absent in checkpoints of earlier versions
        self.alarm = None if alarm is None else Alarm(alarm[0], tuple(alarm[1]))
        self.bad_samples = dict(checkpoint.state["bad_samples"])
        return [Cursor(*cursor) for cursor in checkpoint.state["cursors"]]

    def _restore_techniques(self, saved: Mapping[str, Tensor]) -> None:
        """Restore what techniques keep; one that the run did not have when it was saved begins anew."""
        now = self.gan.techniques.state_dict()
        for name, value in saved.items():
            if name in now and now[name].shape != value.shape:
                raise InputError(
                    f"extension: {name.replace('/', '.')} has the shape {tuple(now[name].shape)}, in the checkpoint "
                    f"{tuple(value.shape)}; restore the code, or give the class another name to begin anew"
                )
        self.gan.techniques.load_state_dict(saved, strict=False)

    def apply_rollback(self, last: Rollback | None) -> None:
        """Take the run's last rollback into account: the checkpoint it went back to was written before it."""
        if last is not None and self.rollbacks < last.count:
            self.rollbacks, self.since_step = last.count, min(last.to_step, self.step)


def trained_tensors(gan: Gan) -> dict[str, Iterable[tuple[str, Tensor]]]:
    """Return the networks, the EMA and the optimizers: file -> (name, tensor), not copied. Iterating is collective."""
    G, D = gan.generator, gan.discriminator
    return {
        "generator": G.module.state_dict().items(),
        "discriminator": D.module.state_dict().items(),
        "ema": gan.ema.module.state_dict().items(),
        "g_optimizer": G.optimizer_state(),
        "d_optimizer": D.optimizer_state(),
        "techniques": gan.techniques.state_dict().items(),
    }


def host_copy(x: Tensor) -> Tensor:
    """Return a contiguous copy in host memory, which training does not touch."""
    return torch.empty(x.shape, dtype=x.dtype).copy_(x.detach())
