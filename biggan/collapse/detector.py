"""From the history of a run to a verdict: is it collapsing, since when, and what says so? Pure; no tensors.

Every signal is compared with its own past, never with an absolute number, and no signal alone convicts: networks
differ, and a discriminator that wins for a while, or one layer that grows, is healthy in many runs (Brock et al.
2018, section 4). docs/collapse.md says why each rule is there and what was measured of it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from biggan.collapse.signals import Series


class Level(StrEnum):
    """How a run is doing."""

    HEALTHY = "healthy"
    WARNING = "warning"
    COLLAPSING = "collapsing"
    COLLAPSED = "collapsed"

    @property
    def is_alarm(self) -> bool:
        """Whether something is to be done."""
        return self in (Level.COLLAPSING, Level.COLLAPSED)


@dataclass(frozen=True)
class Thresholds:
    """What a departure is; `CollapseConfig` has the same names, with what they mean."""

    deviations: float
    patience_observations: int
    minimum_observations: int
    agreeing_signals: int


@dataclass(frozen=True)
class Rule:
    """What of one kind of signal is a departure: a change, up (`sign` 1), down (-1) or either way (0), of at least
    `least`, of the logarithm if `log`. Twice that is severe."""

    pattern: str
    family: str
    """Signals of one family are one witness."""
    sign: int
    least: float
    log: bool = False
    convicts: bool = True
    """Whether it counts toward `collapsing`, or only warns."""


RULES = (
    Rule("sigma/*/0", "spectrum", 1, math.log(1.2), log=True),
    Rule("d_logit_*_spread", "logits", -1, math.log(4), log=True),
    Rule("d_loss", "discriminator loss", 0, 0.5),
    Rule("g_loss", "generator loss", 0, 0.5),
    Rule("?_grad_norm", "gradients", 0, math.log(3), log=True),
    Rule("diversity/*", "diversity", -1, math.log(1.6), log=True),
    Rule("duplicates/*", "duplicates", 1, 0.3),
    Rule("g_steepness", "steepness", -1, math.log(1.6), log=True),
    Rule("d_gradient", "gradient at samples", 0, math.log(3), log=True),
    Rule("memorisation", "memorisation", 1, 0.3, convicts=False),
)
DERIVED = (
    ("d_loss", "d_loss_real", "d_loss_fake", 1),
    ("memorisation", "d_accuracy_train", "d_accuracy_held_out", -1),
)
"""Signals made of two observed ones: the first plus, or minus, the second."""
LAGS = (4, 8, 16, 32)
"""Observations over which a signal may have changed: quick and slow departures are seen, and stay seen for a while."""
PAST = 64
"""Changes over the same number of observations, from before, that one is compared with."""


@dataclass(frozen=True)
class Departure:
    """A signal that has left its past, in words, and since which step."""

    signal: str
    family: str
    what: str
    onset_step: int
    convicts: bool
    severe: bool

    @property
    def layer(self) -> str | None:
        """The layer whose weight it is about."""
        return self.signal.split("/")[1] if self.signal.startswith("sigma/") else None


@dataclass(frozen=True)
class Verdict:
    """What the history says at `step`."""

    step: int
    level: Level
    departures: tuple[Departure, ...] = ()

    @property
    def onset_step(self) -> int | None:
        """The first step at which a signal that convicts (or, without one, any) departed; None when nothing has."""
        convicting = [d for d in self.departures if d.convicts]
        return min((d.onset_step for d in convicting or self.departures), default=None)

    @property
    def families(self) -> list[str]:
        """The witnesses."""
        return list(dict.fromkeys(d.family for d in self.departures))

    @property
    def layers(self) -> list[str]:
        """The layers named, first those that departed first."""
        return [d.layer for d in sorted(self.departures, key=lambda d: d.onset_step) if d.layer is not None]

    @property
    def reasons(self) -> list[str]:
        """One line each, what convicts first."""
        return [d.what for d in sorted(self.departures, key=lambda d: not d.convicts)]


def judge(history: Mapping[str, Series], step: int, thresholds: Thresholds) -> Verdict:
    """The verdict on a run whose signals, up to `step`, are `history`.

    Non-finite steps are `collapsed` at once. Otherwise it takes `agreeing_signals` families for `collapsing`, and as
    many severe ones for `collapsed`; less is a `warning`.
    """
    bad = history.get("non_finite_steps")
    if bad is not None and bad.values[-1] > 0:
        first = bad.steps[-1] - int(bad.values[-1]) + 1
        what = f"a loss or gradient is not finite, since step {first}"
        return Verdict(step, Level.COLLAPSED, (Departure("non_finite_steps", "non-finite", what, first, True, True),))
    found = [departure(rule, name, series, thresholds) for name, series in signals(history) for rule in rules_of(name)]
    departures = tuple(d for d in found if d is not None)
    witnesses = {d.family for d in departures if d.convicts}
    severe = {d.family for d in departures if d.convicts and d.severe}
    if len(witnesses) < thresholds.agreeing_signals:
        return Verdict(step, Level.WARNING if departures else Level.HEALTHY, departures)
    level = Level.COLLAPSED if len(severe) >= thresholds.agreeing_signals else Level.COLLAPSING
    return Verdict(step, level, departures)


def affects_verdict(name: str) -> bool:
    """Whether a verdict can depend on the signal `name`: the others need no history."""
    parts = {name for _, *both, _ in DERIVED for name in both}
    return name in parts or bool(rules_of(name))


def signals(history: Mapping[str, Series]) -> Iterator[tuple[str, Series]]:
    """The series that rules speak of: those observed, and two made of them."""
    yield from history.items()
    for name, first, second, sign in DERIVED:
        if first in history and second in history:
            others = dict(zip(history[second].steps, history[second].values, strict=True))
            both = [(s, v) for s, v in zip(history[first].steps, history[first].values, strict=True) if s in others]
            yield name, Series([s for s, _ in both], [v + sign * others[s] for s, v in both])


def rules_of(name: str) -> list[Rule]:
    """The rules for a signal."""
    return [rule for rule in RULES if fnmatchcase(name, rule.pattern)]


def departure(rule: Rule, name: str, series: Series, thresholds: Thresholds) -> Departure | None:
    """Whether the last `patience_observations` of a signal all depart, and how."""
    n, patience = len(series.values), thresholds.patience_observations
    values = [math.log(max(v, 1e-12)) for v in series.values] if rule.log else series.values
    excess = [excess_at(rule, values, k, thresholds) for k in range(max(0, n - patience), n)]
    if len(excess) < patience or min(excess) < 1:
        return None
    first = n - patience
    while first and excess_at(rule, values, first - 1, thresholds) >= 1:
        first -= 1
    past, now = statistics.median(series.values[max(0, first - LAGS[0]) : max(1, first)]), series.values[-1]
    what = f"{name} {'rose' if now > past else 'fell'} from {past:.3g} to {now:.3g}"
    return Departure(name, rule.family, what, series.steps[first], rule.convicts, severe=min(excess) >= 2)


def excess_at(rule: Rule, values: Sequence[float], k: int, thresholds: Thresholds) -> float:
    """The largest change up to observation `k`, over any of LAGS, as a multiple of what counts as a departure."""
    if not math.isfinite(values[k]):
        return math.inf
    return max((_excess_over(lag, rule, values, k, thresholds) for lag in LAGS), default=0.0)


def _excess_over(lag: int, rule: Rule, values: Sequence[float], k: int, thresholds: Thresholds) -> float:
    """Of the change over `lag` observations, which is compared with those that ended before it began."""
    first = max(lag, k - lag - PAST)
    if k - lag - first < thresholds.minimum_observations:
        return 0.0
    past = [values[j] - values[j - lag] for j in range(first, k - lag)]
    usual = statistics.median(past)
    scatter = 1.4826 * statistics.median(abs(change - usual) for change in past)
    change = values[k] - statistics.median(values[k - lag - 2 : k - lag + 1]) - usual
    if rule.sign * change < 0:
        return 0.0
    return abs(change) / max(rule.least, thresholds.deviations * scatter)
