"""Everything a resume needs, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from biggan.data.loader import Cursor
from biggan.distributed.engine import DDPEngine
from biggan.training.checkpoint import Checkpoint
from biggan.training.step import Gan


@dataclass
class TrainingState:
    """The run between two steps, besides its data position. Latents need no state: they are keyed by the step."""

    gan: Gan
    step: int = 0
    """Generator steps done."""
    bad_samples: dict[str, str] = field(default_factory=dict)
    """Unreadable samples met so far: name -> reason."""

    def to_checkpoint(self, cursors: list[Cursor], config: str, classes: tuple[str, ...]) -> Checkpoint:
        """The state as files, with the data position of every stream and, for whoever samples, the class names."""
        return Checkpoint(
            tensors={
                "generator": self.gan.generator.module.state_dict(),
                "discriminator": self.gan.discriminator.module.state_dict(),
                "ema": self.gan.ema.module.state_dict(),
                "g_optimizer": optimizer_tensors(self.gan.generator),
                "d_optimizer": optimizer_tensors(self.gan.discriminator),
            },
            state={
                "step": self.step,
                "cursors": [list(cursor) for cursor in cursors],
                "bad_samples": self.bad_samples,
                "classes": list(classes),
            },
            config=config,
        )

    def restore(self, checkpoint: Checkpoint) -> list[Cursor]:
        """Become the state that was saved, by networks of the same shape; return the streams' positions."""
        self.gan.generator.module.load_state_dict(checkpoint.tensors["generator"])
        self.gan.discriminator.module.load_state_dict(checkpoint.tensors["discriminator"])
        self.gan.ema.module.load_state_dict(checkpoint.tensors["ema"])
        restore_optimizer(self.gan.generator, checkpoint.tensors["g_optimizer"])
        restore_optimizer(self.gan.discriminator, checkpoint.tensors["d_optimizer"])
        self.step = checkpoint.state["step"]
        self.bad_samples = dict(checkpoint.state["bad_samples"])
        return [Cursor(*cursor) for cursor in checkpoint.state["cursors"]]


def optimizer_tensors(engine: DDPEngine) -> dict[str, Tensor]:
    """Adam's state as PARAMETER/exp_avg, PARAMETER/exp_avg_sq and PARAMETER/step."""
    state = engine.optimizer.state
    return {
        f"{name}/{key}": value
        for name, parameter in engine.parameters.items()
        for key, value in state.get(parameter, {}).items()
    }


def restore_optimizer(engine: DDPEngine, tensors: Mapping[str, Tensor]) -> None:
    """Set Adam's state from `optimizer_tensors`' names; learning rates stay the engine's."""
    for name, parameter in engine.parameters.items():
        if f"{name}/step" not in tensors:
            continue  # saved before the first update
        engine.optimizer.state[parameter] = {
            "step": tensors[f"{name}/step"].to(parameter.device),
            # Laid out as the weight is: the fused kernel walks both in memory order.
            **{key: torch.empty_like(parameter).copy_(tensors[f"{name}/{key}"]) for key in ("exp_avg", "exp_avg_sq")},
        }
