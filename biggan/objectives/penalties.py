"""Penalties on D's gradient at its input, and other terms of D's loss that depend on the samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from biggan.draws import Draw
from biggan.objectives.passes import FAKE, REAL, Pass, Samples, single
from biggan.objectives.seams import Term


@dataclass(frozen=True)
class ZeroCenteredPenalty(Term):
    """E||grad_x D(x)||^2 / 2 on one kind of rows: R1 on real, R2 on fake images (Mescheder et al. 2018, equation 9)."""

    name: str
    differentiates: tuple[str, ...]

    def __call__(self, judged: Pass) -> Tensor:
        """Implement `Term`."""
        (kind,) = self.differentiates
        return judged.input_gradient(kind).square().sum((1, 2, 3)).mean() / 2


R1 = ZeroCenteredPenalty("r1", (REAL,))
R2 = ZeroCenteredPenalty("r2", (FAKE,))


@dataclass(frozen=True)
class GradientPenalty(Term):
    """E(||grad_x D(x)|| - target)^2 between real and fake images (WGAN-GP; Gulrajani et al. 2017, equation 3).

    Each row is real + t * (fake - real) with one t uniform in [0, 1) per sample. Fake images carry the labels of the
    real ones they meet, and the rows between carry them too. The norm is taken over all pixels of a sample.
    """

    target: float
    name = "gradient_penalty"
    differentiates = ("gradient_penalty",)
    paired = True

    def extra_rows(self, fake: Samples, real: Samples, draw: Draw) -> Samples:
        """Implement `Term`: return the images between."""
        x_real, x_fake = single(real.images), single(fake.images)
        t = draw.uniform(self.name, 1, 1, 1).to(x_real.dtype)
        return Samples(torch.lerp(x_real, x_fake, t), real.labels)

    def __call__(self, judged: Pass) -> Tensor:
        """Implement `Term`."""
        norms = judged.input_gradient(self.name).flatten(1).norm(dim=1)
        return (norms - self.target).square().mean()


class LogitMeans(nn.Module):
    """Moving averages of D's logits, over the global batch: every process keeps the same ones."""

    real: Tensor
    fake: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    @torch.no_grad()
    def move(self, judged: Pass, decay: float) -> None:
        """Move toward the logits of one micro-batch; a non-finite batch moves nothing, as with the weights."""
        for average, rows in ((self.real, judged.real), (self.fake, judged.fake)):
            moved = torch.lerp(judged.draw.global_mean(rows.logits), average, decay)
            average.copy_(torch.where(moved.isfinite(), moved, average))


@dataclass(frozen=True)
class LeCam(Term):
    """E relu(D(real) - m_fake)^2 + E relu(m_real - D(fake))^2, with moving averages m of D's logits (Tseng et al. 2021,
    equation 5, with the one-sided form of their code)."""

    means: LogitMeans
    decay: float
    name = "lecam"

    def __call__(self, judged: Pass) -> Tensor:
        """Implement `Term`: move the averages, then measure the logits against them."""
        self.means.move(judged, self.decay)
        over, under = judged.real.logits - self.means.fake, self.means.real - judged.fake.logits
        return F.relu(over).square().mean() + F.relu(under).square().mean()


@contextmanager
def twice_differentiable(enabled: bool) -> Iterator[None]:
    """Make forward passes inside twice differentiable: without fused attention and compiled code, which are not."""
    if not enabled:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        yield
