"""Four hard techniques through the seams: further outputs of D, a replay of fakes, a pyramid, feature matching.

Each trains two steps in which D runs once per micro-batch, and shows that a gradient reaches what it should.
"""

from dataclasses import replace

import pytest
import torch
from runs import TINY
from torch import nn
from torch.nn import functional as F

from biggan.config.preset import resolve_tree
from biggan.config.yaml_text import load_yaml
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.gan import Ema, Gan
from biggan.models.biggan import BigGANDiscriminator
from biggan.objectives.adversarial import HINGE, LogitLoss, d_hinge
from biggan.objectives.passes import Samples
from biggan.objectives.penalties import R2
from biggan.objectives.seams import Adversarial, Term
from biggan.random import keyed_generator
from biggan.startup import build
from biggan.training.step import train_step
from biggan.training.turn import NetworkRecipe, Recipe, Scheduled

ALONE = Process(0, 1, torch.device("cpu"), None)
CONFIG = resolve_tree(load_yaml(TINY), ["run.dir=x", "data.path=y"])
ROWS = CONFIG.micro_batch_size
SILENT = LogitLoss(d_hinge, lambda fake: 0 * fake.sum(), level=0.0)
"""A loss that gives G no gradient, so that all of it comes from a term."""


def recipe(**parts):
    """Return a recipe of two D updates with these parts."""
    return Recipe(2, 1, torch.autocast("cpu", enabled=False), **parts)


def gan(generator=None, discriminator=None):
    """Return the tiny networks, or others in their place."""
    guard = FiniteGuard(ALONE.device)
    built = build.gan(CONFIG, ALONE, guard)
    if generator is not None:
        built = replace(built, generator=build.engine(CONFIG, "G", generator, ALONE, guard), ema=Ema(generator, 0.9, 0))
    if discriminator is not None:
        built = replace(built, discriminator=build.engine(CONFIG, "D", discriminator, ALONE, guard))
    return built


def real_batches(step):
    random = keyed_generator("real", step)
    while True:
        x = torch.rand(ROWS, 3, 32, 32, generator=random) * 2 - 1
        yield x, torch.randint(10, (ROWS,), generator=random)


def two_steps(networks: Gan, parts: Recipe):
    """Train two steps; return the statistics of each, after counting D's forward passes."""
    passes = []
    networks.discriminator.module.register_forward_hook(lambda *_: passes.append(1))
    draws, rows = build.draws(CONFIG, ALONE), []
    for step in (1, 2):
        rows.append(train_step(networks, step, real_batches(step), draws, parts))
    assert len(passes) == 2 * (parts.d_steps + 1), "one forward of D per micro-batch"
    assert all(value.isfinite() for row in rows for value in row.values())
    return rows


def gradients(engine):
    """Return the last gradient of each parameter: beta1 is 0, so Adam's first moment is the gradient."""
    return {name.removesuffix("/exp_avg"): v for name, v in engine.optimizer_state() if name.endswith("/exp_avg")}


class ClassifyingDiscriminator(BigGANDiscriminator):
    """A discriminator with a further output: the logits of each class."""

    def __init__(self):
        super().__init__(32, 2, 10)
        self.classifier = nn.Linear(self.linear.in_features, 10)

    def forward(self, x, y, kinds=(), outputs=()):
        judged = super().forward(x, y, kinds, ("features",))
        judged["classes"] = self.classifier(judged["features"])
        return judged if outputs else judged["logits"]


class AuxiliaryClassifier(Adversarial):
    """AC-GAN (Odena et al. 2017): both networks also learn to have the class of each image recognized."""

    level = 0.0
    outputs = ("classes",)

    def discriminator(self, judged):
        right = [F.cross_entropy(rows.outputs["classes"], rows.labels) for rows in (judged.real, judged.fake)]
        return HINGE.discriminator(judged) | {"d_loss_class": sum(right)}

    def generator(self, judged):
        right = F.cross_entropy(judged.fake.outputs["classes"], judged.fake.labels)
        return SILENT.generator(judged) | {"g_loss_class": right}


def test_an_auxiliary_classifier_teaches_both_networks():
    networks = gan(discriminator=ClassifyingDiscriminator())
    before = networks.discriminator.module.classifier.weight.clone()
    rows = two_steps(networks, recipe(adversarial=AuxiliaryClassifier()))
    assert not torch.equal(networks.discriminator.module.classifier.weight, before)
    assert all(row["d_loss_class"] > 0 and row["g_loss_class"] > 0 for row in rows)
    assert all(row["g_grad_norm"] > 0 for row in rows), "G's only gradient is the classifier's"


class Replay(nn.Module):
    """A view of D's turn: half of the fakes are earlier ones from a pool, with their labels (Shrivastava et al. 2017).

    The pool holds rows of the global batch, so it is equal on every process.
    """

    def __init__(self, size=32, shape=(3, 32, 32)):
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, samples, kind, draw):
        if kind == "real":
            return samples
        size = len(self.images)
        slot = (draw.uniform("replay slot") * self.count.clamp(max=size)).long()
        old = (draw.uniform("replay") < 0.5) & (self.count > 0)
        images = torch.where(old[:, None, None, None], self.images[slot], samples.images)
        shown = Samples(images, torch.where(old, self.labels[slot], samples.labels))
        at = (self.count + torch.arange(draw.size, device=self.count.device)) % size
        self.images[at], self.labels[at] = draw.global_rows(samples.images), draw.global_rows(samples.labels)
        self.count += draw.size
        return shown


class Seen(Term):
    """A term that adds nothing and remembers what it was given."""

    name = "seen"

    def __init__(self):
        self.passes = []

    def __call__(self, judged):
        self.passes.append(judged)
        return 0 * judged.fake.logits.sum()


def test_a_replay_shows_d_earlier_fakes_with_their_labels_and_g_none():
    networks, replay, seen, seen_by_g = gan(), Replay(), Seen(), Seen()
    networks.techniques["replay"] = replay
    D = NetworkRecipe(views=(replay,), terms=(Scheduled(seen, 1.0), Scheduled(R2, 1.0)))
    rows = two_steps(networks, recipe(discriminator=D, generator=NetworkRecipe(terms=(Scheduled(seen_by_g, 1.0),))))
    assert replay.count == 4 * ROWS
    kept = {f"replay.{name}" for name in ("images", "labels", "count")}
    assert kept <= set(networks.techniques.state_dict()), "a checkpoint holds them"
    first, second = seen.passes[0].fake, seen.passes[1].fake
    same = (second.images[:, None] == first.images[None]).flatten(2).all(2)
    assert 0 < same.any(1).sum() < ROWS, "some of the second update's fakes are of the first, others new"
    new, old = same.nonzero(as_tuple=True)
    assert torch.equal(second.labels[new], first.labels[old])
    assert rows[1]["d_r2"] > 0
    assert second.images.requires_grad, "R2 is taken at the images that D sees"
    g_fakes = seen_by_g.passes[0].fake
    assert not (g_fakes.images[:, None] == first.images[None]).flatten(2).all(2).any()
    assert rows[0]["g_grad_norm"] > 0


def pyramid(samples, kind, draw):
    """Return images at 16 and 8 pixels; the generator's are such pairs already. A view."""
    if isinstance(samples.images, tuple):
        return samples
    return Samples(tuple(F.avg_pool2d(samples.images, k) for k in (2, 4)), samples.labels)


class PyramidGenerator(nn.Module):
    """Images at two resolutions, each from a layer of its own (MSG-GAN; Karnewar & Wang 2020)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 4 * 8 * 8)
        self.to_rgb = nn.ModuleDict({"16": nn.Conv2d(4, 3, 1), "8": nn.Conv2d(4, 3, 1)})

    def forward(self, z, y):
        h = self.first(z).unflatten(1, (4, 8, 8))
        return self.to_rgb["16"](F.interpolate(h, scale_factor=2.0)).tanh(), self.to_rgb["8"](h).tanh()


class PyramidDiscriminator(nn.Module):
    """A logit of images at two resolutions, with a branch for each."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(3, 4, 4, 4) for _ in range(2))
        self.linear = nn.Linear(8, 1)

    def forward(self, images, y, kinds=(), outputs=()):
        h = [F.relu(branch(x)).mean((2, 3)) for branch, x in zip(self.branches, images, strict=True)]
        return self.linear(torch.cat(h, 1)).squeeze(1)


class Consistency(Term):
    """A term with rows of its own: D's logits should not depend on a small change of real images."""

    name = "consistency"

    def extra_rows(self, fake, real, draw):
        noise = 0.1 * draw.normal(self.name, 1, 1, 1)
        return Samples(tuple(x + noise for x in real.images), real.labels)

    def __call__(self, judged):
        return (judged.rows[self.name].logits - judged.real.logits).square().mean()


def test_a_pyramid_of_images_reaches_every_level_of_both_networks():
    networks = gan(PyramidGenerator(), PyramidDiscriminator())
    D = NetworkRecipe(terms=(Scheduled(Consistency(), 10.0),))
    rows = two_steps(networks, recipe(views=(pyramid,), discriminator=D))
    assert rows[0]["d_consistency"] > 0
    for engine in (networks.generator, networks.discriminator):
        found = gradients(engine)
        assert len(found) == len(list(engine.module.parameters()))
        assert all(gradient.any() for gradient in found.values())


class FeatureMatching(Term):
    """The distance of the mean features of fake and real images (Salimans et al. 2016, section 3.1)."""

    name = "feature_matching"
    needs_real = True
    outputs = ("features",)

    def __call__(self, judged):
        real, fake = (judged.draw.global_mean(rows.outputs["features"]) for rows in (judged.real, judged.fake))
        return (real.detach() - fake).square().sum()


def test_feature_matching_is_a_term_of_g_on_real_images():
    norms = []
    for weight in (1.0, 3.0):
        matching = NetworkRecipe(terms=(Scheduled(FeatureMatching(), weight),))
        parts = recipe(adversarial=SILENT, generator=matching)
        assert parts.real_batches == 3, "two for D, one for G"
        rows = two_steps(gan(), parts)
        assert all(row["g_feature_matching"] > 0 for row in rows)
        norms.append(rows[0]["g_grad_norm"].item())
    assert norms[0] > 0
    assert norms[1] == pytest.approx(3 * norms[0], rel=1e-4), "G's only gradient is the term's"
