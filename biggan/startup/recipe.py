"""Compose the recipe that a config describes: losses, penalties, views and rates of both networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from biggan.config import Config
from biggan.config.objective import LabelsConfig
from biggan.config.schedule import Schedule, values
from biggan.gan import Gan
from biggan.objectives.adversarial import (
    LOSSES,
    LabelTargets,
    LogitLoss,
    TargetLoss,
    least_squares_rows,
    logistic_rows,
)
from biggan.objectives.penalties import R1, R2, GradientPenalty, LeCam, LogitMeans
from biggan.objectives.seams import Adversarial, Constraint, Term, WeightTerm
from biggan.objectives.spectral import SpectralLimit
from biggan.objectives.views import DiffAugment
from biggan.objectives.weight_terms import OrthogonalTerm, SpectralClamp, SpectralTerm
from biggan.training.turn import AdamSchedule, DeviceScalar, FrozenBlocks, NetworkRecipe, Part, Recipe, Scheduled

Number = float | Schedule


def techniques(extension: Mapping[str, Any] | None = None) -> nn.ModuleDict:
    """Build what techniques keep between steps. A rollback or a child run may switch any of them on.

    The parts of an extension, by import path, that are modules keep what their buffers hold.
    """
    kept = {path: part for path, part in (extension or {}).items() if isinstance(part, nn.Module)}
    return nn.ModuleDict({"lecam": LogitMeans(), **{path.replace(".", "/"): part for path, part in kept.items()}})


def compose(config: Config, gan: Gan, autocast: torch.autocast, since_step: int = 0) -> Recipe:
    """Compose the recipe of a config whose values took effect after G step `since_step` (see `in_force`)."""
    training, augment, own = config.training, config.objective.augment, config.extension
    views = (DiffAugment("color" in augment, "translation" in augment, "cutout" in augment),) if augment else ()
    return Recipe(
        d_steps=training.d_steps,
        accumulation=training.accumulation,
        autocast=autocast,
        adversarial=gan.extension[own.loss] if own.loss else adversarial(config),
        views=(*views, *(gan.extension[path] for path in own.views)),
        generator=network_recipe(config, gan, "G", since_step),
        discriminator=network_recipe(config, gan, "D", since_step),
    )


def adversarial(config: Config) -> Adversarial:
    """Return the adversarial losses, with targets for D's rows if `objective.labels` sets any."""
    objective = config.objective
    loss, labels = LOSSES[objective.loss], objective.labels
    if labels == LabelsConfig():
        return loss
    assert isinstance(loss, LogitLoss), "the config checks which losses have targets"
    return TargetLoss(
        loss.d_loss,
        loss.g_loss,
        loss.level,
        row_loss=least_squares_rows if objective.loss == "least_squares" else logistic_rows,
        targets=LabelTargets(labels.real, labels.fake, labels.noise, labels.flip),
    )


def network_recipe(config: Config, gan: Gan, name: str, since_step: int) -> NetworkRecipe:
    """Return what is done to the network `name`, G or D, besides its adversarial loss."""
    init, training, is_g = config.init, config.training, name == "G"
    network = (gan.generator if is_g else gan.discriminator).module
    device = next(network.parameters()).device
    own, parts = config.extension.generator if is_g else config.extension.discriminator, gan.extension
    terms = [] if is_g else d_terms(config, gan.techniques)
    own_terms = [(parts[path], weight, 1) for path, weight in own.terms.items()]
    own_weight_terms = [(parts[path], weight, 1) for path, weight in own.weight_terms.items()]
    return NetworkRecipe(
        views=tuple(parts[path] for path in own.views),
        terms=switched_on([*terms, *own_terms], device),
        weight_terms=switched_on([*weight_terms(config, network, name), *own_weight_terms], device),
        constraints=(*constraints(config, network, name), *(parts[path] for path in own.constraints)),
        adam=adam_schedule(config, name),
        frozen_until_step=since_step + (training.freeze_g_steps if is_g else training.freeze_d_steps),
        frozen_blocks=FrozenBlocks(
            init.freeze_g_blocks if is_g else init.freeze_d_blocks,
            init.freeze_g_steps if is_g else init.freeze_d_steps,
        ),
    )


def adam_schedule(config: Config, name: str) -> AdamSchedule:
    """Return Adam's settings for the network `name`, G or D."""
    o = config.optimizer
    return AdamSchedule(o.g_lr if name == "G" else o.d_lr, o.beta1, o.beta2, o.eps, o.max_grad_norm)


def d_terms(config: Config, kept: nn.ModuleDict) -> list[tuple[Term, Number, int]]:
    """Return every built-in term of D's loss, with its weight and how often it is due; `kept` is of `techniques`."""
    o, means = config.objective, kept["lecam"]
    assert isinstance(means, LogitMeans), "techniques() builds it"
    return [
        (R1, o.r1.gamma, o.r1.every_d_steps),
        (R2, o.r2.gamma, o.r2.every_d_steps),
        (GradientPenalty(o.gradient_penalty.target), o.gradient_penalty.weight, o.gradient_penalty.every_d_steps),
        (LeCam(means, o.lecam.decay), o.lecam.weight, 1),
    ]


def weight_terms(config: Config, network: nn.Module, name: str) -> list[tuple[WeightTerm, Number, int]]:
    """Return every built-in term of the network's weights, with its weight."""
    o, limit = config.objective, spectral_limit(config)
    terms: list[tuple[WeightTerm, Number, int]] = [(OrthogonalTerm(), o.orthogonal, 1)] if name == "G" else []
    return [*terms, (SpectralTerm(limit, name), o.spectral.penalty, 1)] if limit.chosen(network, name) else terms


def constraints(config: Config, network: nn.Module, name: str) -> tuple[Constraint, ...]:
    """Return what is done to the network's weights after each update."""
    limit = spectral_limit(config)
    return (SpectralClamp(limit, name),) if config.objective.spectral.clamp and limit.chosen(network, name) else ()


def spectral_limit(config: Config) -> SpectralLimit:
    """Return the limit that the spectral penalty and the clamp share."""
    spectral = config.objective.spectral
    return SpectralLimit(spectral.layers, spectral.target, spectral.ratio)


def switched_on(
    terms: Sequence[tuple[Part, Number, int]], device: torch.device
) -> tuple[Scheduled[Part], ...]:  # fmt: skip
    """Return the terms that have a weight in any step."""
    return tuple(
        Scheduled(part, weight, every, DeviceScalar(device)) for part, weight, every in terms if any(values(weight))
    )
