"""Judges the history of a run: is it collapsing, since which step, and which signals show it? Pure, without tensors.

Every signal is compared with its own past, never with an absolute number. No single signal confirms a collapse:
networks differ, and a discriminator that wins for a while, or one layer that grows, is healthy in many runs (Brock et
al. 2018, section 4). docs/collapse.md gives the reason for each rule and the measurements.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from biggan.collapse.signals import Series


class Level(StrEnum):
    """State of a run."""

    HEALTHY = "healthy"
    WARNING = "warning"
    COLLAPSING = "collapsing"
    COLLAPSED = "collapsed"

    @property
    def is_alarm(self) -> bool:
        """True for `collapsing` and `collapsed`, the levels that trigger a reaction."""
        return self in (Level.COLLAPSING, Level.COLLAPSED)


@dataclass(frozen=True)
class Thresholds:
    """Definition of a departure; `CollapseConfig` has the same keys and explains them."""

    deviations: float
    patience_observations: int
    minimum_observations: int
    agreeing_signals: int


@dataclass(frozen=True)
class Rule:
    """Definition of a departure for one kind of signal: a change of at least `min_change`, upwards (`sign` 1),
    downwards (-1) or either way (0), of the value or, if `log`, of its logarithm. A change twice as large is severe.

    A loss has no scale of its own: its change is measured in the past spread of D's logits, which it is a function of.
    """

    pattern: str
    family: str
    """Signal family; all signals of a family count once."""
    sign: int
    min_change: float
    log: bool = False
    in_spreads: bool = False
    """True: `min_change` is a multiple of the past spread of D's logits."""
    confirms: bool = True
    """True if it counts toward `collapsing`; False if it only warns."""


RULES = (
    Rule("sigma/*/0", "spectrum", 1, math.log(1.2), log=True),
    Rule("d_logit_*_spread", "logits", -1, math.log(4), log=True),
    Rule("d_loss", "discriminator loss", 0, 0.4, in_spreads=True),
    Rule("g_loss", "generator loss", 0, 0.4, in_spreads=True),
    Rule("?_grad_norm", "gradients", 0, math.log(3), log=True),
    Rule("diversity/*", "diversity", -1, math.log(1.6), log=True),
    Rule("duplicates/*", "duplicates", 1, 0.3),
    Rule("g_steepness", "steepness", -1, math.log(1.6), log=True),
    Rule("d_gradient", "gradient at samples", 0, math.log(3), log=True),
    Rule("memorisation", "memorisation", 1, 0.3, confirms=False),
)
DERIVED = (
    ("d_loss", "d_loss_real", "d_loss_fake", 1),
    ("memorisation", "d_accuracy_train", "d_accuracy_held_out", -1),
)
"""Signals derived from two observed ones: name, first, second, and the sign of the second in their sum."""
SPREADS = ("d_logit_real_spread", "d_logit_fake_spread")
"""Standard deviations of D's logits."""
TINY = 1e-12
LAGS = (4, 8, 16, 32)
"""Lengths of a change, in observations: fast and slow departures are detected, and stay detected for some time."""
PAST = 64
"""Maximum number of earlier changes, over the same number of observations, that a change is compared with."""


@dataclass(frozen=True)
class Departure:
    """Departure of a signal from its past, with a description and its first step."""

    signal: str
    family: str
    description: str
    onset_step: int
    confirms: bool
    severe: bool

    @property
    def layer(self) -> str | None:
        """The layer that the signal belongs to; None for signals that are not of one layer."""
        return self.signal.split("/")[1] if self.signal.startswith("sigma/") else None


@dataclass(frozen=True)
class Alarm:
    """An active alarm. Its signals are compared with their values from before the onset until they return to them."""

    onset_step: int
    signals: tuple[str, ...]
    """Names of the signals that confirmed it."""


@dataclass(frozen=True)
class Verdict:
    """Verdict on a run at `step`."""

    step: int
    level: Level
    departures: tuple[Departure, ...] = ()

    @property
    def onset_step(self) -> int | None:
        """The first step at which a confirming signal (or, without one, any signal) departed; None without
        departures."""
        confirming = [d for d in self.departures if d.confirms]
        return min((d.onset_step for d in confirming or self.departures), default=None)

    @property
    def families(self) -> list[str]:
        """The signal families that have departed."""
        return list(dict.fromkeys(d.family for d in self.departures))

    @property
    def layers(self) -> list[str]:
        """The layers that have departed, in order of their onset."""
        return [d.layer for d in sorted(self.departures, key=lambda d: d.onset_step) if d.layer is not None]

    @property
    def reasons(self) -> list[str]:
        """One line per departure, confirming ones first."""
        return [d.description for d in sorted(self.departures, key=lambda d: not d.confirms)]


def judge(history: Mapping[str, Series], step: int, thresholds: Thresholds, alarm: Alarm | None = None) -> Verdict:
    """Judge a run at `step` by its signals up to then, `history`: signal name -> series.

    During an `alarm`, each of its signals also departs as long as it differs from its values before the onset. A dead
    run must not become healthy because its recent past is dead, too.

    Non-finite steps give `collapsed` immediately. Otherwise `agreeing_signals` families that depart give `collapsing`,
    as many severe ones `collapsed`, and fewer a `warning`.
    """
    non_finite = history.get("non_finite_steps")
    if non_finite is not None and non_finite.values[-1] > 0:
        first = non_finite.steps[-1] - int(non_finite.values[-1]) + 1
        reason = f"a loss or gradient is not finite, since step {first}"
        return Verdict(step, Level.COLLAPSED, (Departure("non_finite_steps", "non-finite", reason, first, True, True),))
    spreads = spread_of_logits(history)
    candidates = [
        find_departure(rule, name, series, thresholds, spreads)
        or find_lasting(rule, name, series, thresholds, alarm, spreads)
        for name, series in with_derived_signals(history)
        for rule in rules_for(name)
    ]
    departures = tuple(d for d in candidates if d is not None)
    families = {d.family for d in departures if d.confirms}
    severe = {d.family for d in departures if d.confirms and d.severe}
    if len(families) < thresholds.agreeing_signals:
        return Verdict(step, Level.WARNING if departures else Level.HEALTHY, departures)
    level = Level.COLLAPSED if len(severe) >= thresholds.agreeing_signals else Level.COLLAPSING
    return Verdict(step, level, departures)


def affects_verdict(name: str) -> bool:
    """Return True if a verdict depends on the signal `name`. Only such signals need a history."""
    operands = {operand for _, *both, _ in DERIVED for operand in both}
    return name in operands or bool(rules_for(name))


def with_derived_signals(history: Mapping[str, Series]) -> Iterator[tuple[str, Series]]:
    """Yield the name and series of every observed signal and of the signals derived from them."""
    yield from history.items()
    for name, first, second, sign in DERIVED:
        if first in history and second in history:
            second_at = dict(zip(history[second].steps, history[second].values, strict=True))
            points = [
                (s, v) for s, v in zip(history[first].steps, history[first].values, strict=True) if s in second_at
            ]
            yield name, Series([s for s, _ in points], [v + sign * second_at[s] for s, v in points])


def spread_of_logits(history: Mapping[str, Series]) -> dict[int, float]:
    """Return the mean standard deviation of D's logits on real and on fake images by step; empty if not observed."""
    found: dict[int, list[float]] = {}
    for series in (history[name] for name in SPREADS if name in history):
        for step, value in zip(series.steps, series.values, strict=True):
            found.setdefault(step, []).append(value)
    return {step: statistics.fmean(values) for step, values in found.items()}


def rules_for(name: str) -> list[Rule]:
    """Return the rules that apply to a signal."""
    return [rule for rule in RULES if fnmatchcase(name, rule.pattern)]


def find_departure(
    rule: Rule, name: str, series: Series, thresholds: Thresholds, spreads: Mapping[int, float]
) -> Departure | None:
    """Return the departure of a signal if its last `patience_observations` all depart, else None."""
    n, patience = len(series.values), thresholds.patience_observations
    changing = Changing(rule, series, spreads)
    excess = [excess_at(changing, k, thresholds) for k in range(max(0, n - patience), n)]
    if len(excess) < patience or min(excess) < 1:
        return None
    first = n - patience
    while first and excess_at(changing, first - 1, thresholds) >= 1:
        first -= 1
    past, now = statistics.median(series.values[max(0, first - LAGS[0]) : max(1, first)]), series.values[-1]
    description = f"{name} {'rose' if now > past else 'fell'} from {past:.3g} to {now:.3g}"
    return Departure(name, rule.family, description, series.steps[first], rule.confirms, severe=min(excess) >= 2)


def find_lasting(
    rule: Rule,
    name: str,
    series: Series,
    thresholds: Thresholds,
    alarm: Alarm | None,
    spreads: Mapping[int, float],
) -> Departure | None:
    """Return the departure of a signal of `alarm` that is not back at its values before the onset, or None."""
    if alarm is None or name not in alarm.signals:
        return None
    before = bisect_left(series.steps, alarm.onset_step)
    if before < LAGS[0] + thresholds.minimum_observations:
        return None
    changing = Changing(rule, series, spreads)
    values = changing.values
    _, deviation = _usual_change(values, LAGS[0], max(LAGS[0], before - PAST), before)
    threshold = max(changing.min_change(max(LAGS[0], before - PAST), before), thresholds.deviations * deviation)
    level = statistics.median(values[before - 3 : before])
    recent = [value - level for value in values[max(before, len(values) - thresholds.patience_observations) :]]
    if not any(not math.isfinite(c) or (rule.sign * c >= 0 and abs(c) >= threshold) for c in recent):
        return None
    severe = all(not math.isfinite(change) or abs(change) >= 2 * threshold for change in recent)
    past, now = statistics.median(series.values[before - 3 : before]), series.values[-1]
    description = f"{name} is {now:.3g}; it was {past:.3g} before step {alarm.onset_step}"
    return Departure(name, rule.family, description, alarm.onset_step, rule.confirms, severe=severe)


class Changing:
    """A signal as a rule sees it: its values, or their logarithms, and the smallest change that counts."""

    def __init__(self, rule: Rule, series: Series, spreads: Mapping[int, float]):
        self.rule, self._steps, self._spreads = rule, series.steps, spreads
        self.values = [math.log(max(v, TINY)) for v in series.values] if rule.log else series.values

    def min_change(self, first: int, end: int) -> float:
        """Return the rule's minimum change, in the unit of the observations `first` to `end` - 1; above 0."""
        known = [s for step in self._steps[first:end] if math.isfinite(s := self._spreads.get(step, math.nan))]
        unit = statistics.median(known) if self.rule.in_spreads and known else float(not self.rule.in_spreads)
        return max(self.rule.min_change * unit, TINY)


def excess_at(changing: Changing, k: int, thresholds: Thresholds) -> float:
    """Return the largest change up to observation `k` over any of LAGS, in multiples of the departure threshold."""
    if not math.isfinite(changing.values[k]):
        return math.inf
    return max((_excess_over(lag, changing, k, thresholds) for lag in LAGS), default=0.0)


def _excess_over(lag: int, changing: Changing, k: int, thresholds: Thresholds) -> float:
    """Return the change over `lag` observations up to `k`, in multiples of the departure threshold.

    It is compared with changes that ended before it started.
    """
    values, first = changing.values, max(lag, k - lag - PAST)
    if k - lag - first < thresholds.minimum_observations:
        return 0.0
    usual, deviation = _usual_change(values, lag, first, k - lag)
    change = values[k] - statistics.median(values[k - lag - 2 : k - lag + 1]) - usual
    if changing.rule.sign * change < 0:
        return 0.0
    return abs(change) / max(changing.min_change(first - lag, k - lag), thresholds.deviations * deviation)


def _usual_change(values: Sequence[float], lag: int, first: int, end: int) -> tuple[float, float]:
    """Return the median and the spread of the changes over `lag` observations that end at `first` to `end` - 1."""
    past = [values[j] - values[j - lag] for j in range(first, end)]
    usual = statistics.median(past)
    return usual, 1.4826 * statistics.median(abs(change - usual) for change in past)  # the standard deviation, robustly
