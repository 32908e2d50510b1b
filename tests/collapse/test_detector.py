"""The verdict on synthetic histories: level, signal families, layers and onset."""

import math
import random

from biggan.collapse.detector import Level, Thresholds, affects_verdict, judge
from biggan.collapse.response import ResponsePolicy, alarm_after
from biggan.collapse.signals import DENSE, History, Series

THRESHOLDS = Thresholds(deviations=4.0, patience_observations=2, minimum_observations=30, agreeing_signals=2)
EVERY = 10


def history(until=1000, onset=None, **changed):
    """Return noisy signals of a healthy run; after `onset`, `changed` ones are functions of the steps since then."""
    noise = random.Random(0)
    plain = {
        "d_loss_real": lambda t: 0.6 - 0.0002 * t + noise.gauss(0, 0.05),
        "d_loss_fake": lambda t: 0.6 - 0.0002 * t + noise.gauss(0, 0.05),
        "g_loss": lambda t: 0.3 + noise.gauss(0, 0.1),
        "d_logit_real_spread": lambda t: 0.8 + noise.gauss(0, 0.05),
        "g_grad_norm": lambda t: math.exp(noise.gauss(0, 0.2)),
        "sigma/G.linear/0": lambda t: math.exp(0.0005 * t + noise.gauss(0, 0.002)),
        "sigma/D.linear/0": lambda t: 2 + noise.gauss(0, 0.1),
        "diversity/ema": lambda t: 0.5 + noise.gauss(0, 0.02),
        "diversity/generator": lambda t: 0.5 + noise.gauss(0, 0.03),
    }
    recorded = History()
    for step in range(EVERY, until + 1, EVERY):
        row = {name: signal(step) for name, signal in plain.items()}
        if onset is not None and step > onset:
            row |= {name.replace("__", "/").replace("_dot_", "."): f(step - onset) for name, f in changed.items()}
        recorded.add(step, row)
    return recorded.series


def verdict(series):
    return judge(series, 1000, THRESHOLDS)


def test_noise_and_slow_trends_are_healthy_at_every_step():
    complete = history(until=3000)
    for n in range(1, 301):
        part = {name: Series(s.steps[:n], s.values[:n]) for name, s in complete.items()}
        assert judge(part, n * EVERY, THRESHOLDS).level is Level.HEALTHY


def test_one_signal_family_warns_and_two_raise_an_alarm():
    falls = {"diversity__ema": lambda t: 0.2, "diversity__generator": lambda t: 0.2}
    found = verdict(history(onset=900, **falls))
    assert (found.level, found.families) == (Level.WARNING, ["diversity"])
    found = verdict(history(onset=900, **falls, d_loss_fake=lambda t: 2.0))
    assert found.level.is_alarm
    assert set(found.families) == {"diversity", "discriminator loss"}
    assert 900 <= found.onset_step <= 920


def test_an_exploding_layer_is_listed_and_a_steadily_growing_one_is_not():
    found = verdict(history(onset=950, sigma__D_dot_linear__0=lambda t: 2 * math.exp(0.05 * t), g_loss=lambda t: 3.0))
    assert found.layers == ["D.linear"]
    assert found.level.is_alarm
    assert any(reason.startswith("sigma/D.linear/0 rose from 2") for reason in found.reasons)


def test_a_shrinking_layer_does_not_depart():
    assert verdict(history(onset=900, sigma__D_dot_linear__0=lambda t: 0.2)).level is Level.HEALTHY


def test_non_finite_steps_are_collapsed_immediately():
    found = judge({"g_loss": Series([100], [0.1]), "non_finite_steps": Series([110], [7.0])}, 110, THRESHOLDS)
    assert (found.level, found.onset_step) == (Level.COLLAPSED, 104)


def test_nan_and_infinite_values_depart():
    found = verdict(history(onset=970, **{"diversity__ema": lambda t: math.nan, "g_loss": lambda t: math.inf}))
    assert found.level is Level.COLLAPSED


def test_a_single_outlier_is_healthy_and_two_in_a_row_raise_an_alarm():
    series = history()
    for signal in ("d_loss_fake", "g_loss", "diversity/ema"):
        series[signal].values[-1] = 9.0 if "loss" in signal else 0.01
    assert verdict(series).level is Level.HEALTHY
    for signal in ("d_loss_fake", "g_loss", "diversity/ema"):
        series[signal].values[-2] = 9.0 if "loss" in signal else 0.01
    assert verdict(series).level.is_alarm


def test_a_run_with_too_few_observations_is_healthy():
    short = history(until=EVERY * 29, onset=EVERY * 20, d_loss_fake=lambda t: 9.0, g_loss=lambda t: 9.0)
    assert judge(short, EVERY * 29, THRESHOLDS).level is Level.HEALTHY


def test_a_signal_that_only_warns_does_not_set_the_onset():
    early = {"d_accuracy_train": lambda t: 0.99, "d_accuracy_held_out": lambda t: 0.3}
    series = history(onset=950, g_loss=lambda t: 4.0, diversity__ema=lambda t: 0.1)
    steps = series["g_loss"].steps
    for name, value in early.items():
        series[name] = Series(steps, [value(0) if step > 850 else 0.5 for step in steps])
    found = verdict(series)
    assert "memorisation" in found.families
    assert found.onset_step > 950
    assert "memorisation" not in found.reasons[0]


def test_signals_that_were_always_nan_raise_an_alarm():
    steps = list(range(10, 1001, 10))
    series = {"g_loss": Series(steps, [math.nan] * 100), "diversity/ema": Series(steps, [math.nan] * 100)}
    assert judge(series, 1000, THRESHOLDS).level.is_alarm


def test_memorisation_alone_only_warns():
    series = history()
    steps = series["g_loss"].steps
    late = [step > 800 for step in steps]
    series["d_accuracy_train"] = Series(steps, [0.95 if x else 0.6 for x in late])
    series["d_accuracy_held_out"] = Series(steps, [0.5 if x else 0.55 for x in late])
    series |= {"diversity/ema": Series(steps, [0.1 if x else 0.5 for x in late])}
    found = verdict(series)
    assert (found.level, set(found.families)) == (Level.WARNING, {"diversity", "memorisation"})


def test_signals_without_a_rule_do_not_affect_the_verdict():
    assert affects_verdict("sigma/G.linear/0")
    assert affects_verdict("d_accuracy_held_out")
    assert not affects_verdict("sigma/G.linear/1")
    assert not affects_verdict("images_seen")


def test_a_series_keeps_recent_observations_thins_older_ones_and_is_bounded():
    series = Series()
    for step in range(100_000):
        series.add(step, float(step))
    assert len(series.steps) < 2 * DENSE
    assert series.steps[-DENSE:] == list(range(100_000 - DENSE, 100_000))
    gaps = [b - a for a, b in zip(series.steps, series.steps[1:], strict=False)]
    assert gaps == sorted(gaps, reverse=True)
    assert series.values == [float(step) for step in series.steps]


def test_history_is_restored_from_its_tensors():
    saved = History()
    for step in range(0, 5000, 7):
        saved.add(step, {"g_loss": step / 3, "diversity/ema": math.nan if step < 100 else 0.1})
    restored = History()
    restored.restore(saved.tensors())
    assert restored.series["g_loss"] == saved.series["g_loss"]
    assert restored.series["diversity/ema"].steps == saved.series["diversity/ema"].steps


def test_of_a_layers_spectrum_only_the_raw_sigma_0_affects_the_verdict():
    assert affects_verdict("sigma/G.linear/0")
    assert not any(affects_verdict(f"sigma/G.linear/{name}") for name in ("normalized_0", "ratio", "slope", "1"))


def levels_of_a_run_that_continues(series, steps):
    """Judge at each of `steps`, carrying the alarm along as a run does; return step -> level."""
    policy, level, alarm, levels = ResponsePolicy("continue", 0), Level.HEALTHY, None, {}
    for step in steps:
        part = {name: Series(s.steps[: step // EVERY], s.values[: step // EVERY]) for name, s in series.items()}
        verdict = judge(part, step, THRESHOLDS, alarm)
        level = policy.level_after(level, verdict)
        alarm = alarm_after(alarm, level, verdict)
        levels[step] = level
    return levels


def test_a_dead_run_stays_in_alarm_until_its_signals_are_back():
    """Constant signals for 2,000 steps are no past to be healthy by; the old values are."""

    def dead_until(t, dead, healthy):
        return dead if t < 2000 else healthy

    series = history(
        until=4000,
        onset=1000,
        d_logit_real_spread=lambda t: dead_until(t, 0.0, 0.8),
        g_grad_norm=lambda t: dead_until(t, 0.0, 1.0),
        g_loss=lambda t: dead_until(t, 4.0, 0.3),
    )
    levels = levels_of_a_run_that_continues(series, range(500, 4001, EVERY))
    first = next(step for step, level in levels.items() if level.is_alarm)
    assert 1000 < first <= 1050
    assert all(levels[step].is_alarm for step in range(first, 3001, EVERY))
    assert not levels[4000].is_alarm
    recent = {n: Series(s.steps[:250], s.values[:250]) for n, s in series.items()}
    assert judge(recent, 2500, THRESHOLDS).level is Level.HEALTHY, "by its recent past alone the dead run looks healthy"
