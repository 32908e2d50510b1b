"""Classes as users write them: names or numbers, and mixtures of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from biggan.errors import InputError
from biggan.generation.arguments import class_number


def chosen_classes(wanted: str, names: tuple[str, ...], most: int) -> list[int]:
    """Class numbers from a comma-separated list of names or numbers; without one, `most` of all, evenly spaced."""
    from biggan.pictures import evenly_spaced

    if not wanted:
        return evenly_spaced(len(names), most)
    return [class_number(part.strip(), names, "--classes") for part in wanted.split(",")]


def mixture(text: str, names: tuple[str, ...]) -> dict[int, float]:
    """Weights by class number from `cat=0.7,dog=0.3`; raises InputError."""
    weights: dict[int, float] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        try:
            weight = float(number) if equals else math.nan
        except ValueError:
            weight = math.nan
        if not (weight >= 0 and math.isfinite(weight)):
            raise InputError(f"--mix: '{part.strip()}'; write NAME=WEIGHT, as in cat=0.7,dog=0.3, weights from 0 up")
        which = class_number(name.strip(), names, "--mix")
        weights[which] = weights.get(which, 0) + weight
    if sum(weights.values()) == 0:
        raise InputError(f"--mix: '{text}': all weights are 0; give one class a weight above it")
    return weights


def mixture_label(weights: dict[int, float], names: Sequence[str]) -> str:
    """`70% cat, 30% dog`."""
    total = sum(weights.values())
    return ", ".join(f"{100 * weight / total:.3g}% {names[k]}" for k, weight in weights.items())
