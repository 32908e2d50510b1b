"""Parts that a researcher might write; importing this file leaves a mark beside it. Tests copy it."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from biggan.objectives.passes import Samples
from biggan.objectives.seams import Adversarial, Term, WeightTerm

Path(__file__).with_name("imported").touch()


class SoftHinge(Adversarial):
    """The hinge loss with softplus in place of relu."""

    level = 0.0

    def discriminator(self, judged):
        real, fake = judged.real.logits, judged.fake.logits
        return {"d_loss_real": F.softplus(1 - real).mean(), "d_loss_fake": F.softplus(1 + fake).mean()}

    def generator(self, judged):
        return {"g_loss": -judged.fake.logits.mean()}


class Anchor(nn.Module, Term):
    """A term with state: D's logits near their moving average, which starts at a random number."""

    name = "anchor"

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.randn(()))

    def forward(self, judged):
        logits = torch.cat([judged.real.logits, judged.fake.logits])
        with torch.no_grad():
            self.average.lerp_(judged.draw.global_mean(logits), 0.1)
        return (logits - self.average).square().mean()


class Replay(nn.Module):
    """A view of D's turn with state: some fakes are earlier ones."""

    def __init__(self):
        super().__init__()
        self.register_buffer("images", torch.zeros(24, 3, 32, 32))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, samples, kind, draw):
        if kind == "real":
            return samples
        slot = (draw.uniform("replay slot") * self.count.clamp(max=24)).long()
        old = (draw.uniform("replay") < 0.5) & (self.count > 0)
        shown = torch.where(old[:, None, None, None], self.images[slot], samples.images)
        self.images[(self.count + torch.arange(draw.size)) % 24] = draw.global_rows(samples.images)
        self.count += draw.size
        return Samples(shown, samples.labels)


def noise(samples, kind, draw):
    """A view of both turns: instance noise."""
    return Samples(samples.images + 0.05 * draw.normal(f"noise {kind}", *samples.images.shape[1:]), samples.labels)


class Decay(WeightTerm):
    """The sum of all squared weights."""

    name = "decay"

    def __call__(self, network):
        return sum(weight.square().sum() for weight in network.parameters())


@torch.no_grad()
def clip(network, veto):
    """A constraint: every weight of the last layer in [-1, 1]."""
    weight = network.linear.weight
    weight.copy_(torch.where(veto > 0, weight, weight.clamp(-1, 1)))
