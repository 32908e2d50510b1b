"""The collapse monitor: it collects the signals of a run, keeps their history and judges it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from biggan.collapse.detector import Alarm, Thresholds, Verdict, affects_verdict, judge
from biggan.collapse.quality import QualityProbe
from biggan.collapse.signals import History, Series, Window
from biggan.collapse.spectrum import Spectrum
from biggan.config.collapse import CollapseConfig
from biggan.distributed.process import Process
from biggan.gan import Gan, Stats

SLOPE_OBSERVATIONS = 10
"""Observations from which the slope of a singular value is estimated."""


class Monitor:
    """The monitor of one run. Between logged steps it only accumulates, on the device."""

    def __init__(
        self,
        settings: CollapseConfig,
        log_every_steps: int,
        gan: Gan,
        process: Process,
        quality: QualityProbe,
        autocast: torch.autocast,
    ):
        self._settings, self._log_every_steps = settings, log_every_steps
        self._gan, self._process, self._quality, self._autocast = gan, process, quality, autocast
        self._networks = {"G": gan.generator.module, "D": gan.discriminator.module}
        self._spectrum = Spectrum(self._networks, settings.top_singular_values, process.rank, process.world_size)
        self._window = Window()
        self.history = History()

    def add(self, stats: Stats) -> None:
        """Accumulate the statistics of one step."""
        self._window.add(stats, self._gan.generator.guard.veto)

    def observe(self, step: int, level: float | None) -> dict[str, float]:
        """Return everything due at the logged G step `step`, as a row of `metrics.jsonl`. Collective.

        `level` is the logit between real and fake; None if only differences of logits have a meaning.
        """
        row = with_spreads(self._window.close(self._process.group))
        if self._due(step, self._settings.spectrum_every_steps):
            row |= self._singular_values(step)
        if self._due(step, self._settings.quality_every_steps):
            with self._autocast:
                row |= self._quality.measure(self._networks["G"], self._gan.ema.module, self._networks["D"], level)
        self._remember(step, row)
        return row

    def judge(self, step: int, vetoed_steps: int, alarm: Alarm | None) -> Verdict:
        """Return rank 0's verdict on every process; the last `vetoed_steps` steps were not finite. Collective."""
        s = self._settings
        thresholds = Thresholds(
            deviations=s.deviations,
            patience_observations=s.patience_observations,
            minimum_observations=s.minimum_observations,
            agreeing_signals=s.agreeing_signals,
        )
        # Not kept in the history: a resume continues from the state before it.
        seen = self.history.series | {"non_finite_steps": Series([step], [float(vetoed_steps)])}
        verdict = judge(seen, step, thresholds, alarm) if self._process.is_main else None
        agreed: Verdict = self._process.gather(verdict)[0]
        return agreed

    def _due(self, step: int, every_steps: int) -> bool:
        """Return True if a multiple of `every_steps` has passed since the last logged step."""
        return step // every_steps > (step - self._log_every_steps) // every_steps

    def _remember(self, step: int, row: Mapping[str, float]) -> None:
        self.history.add(step, {name: value for name, value in row.items() if affects_verdict(name)})

    def _singular_values(self, step: int) -> dict[str, float]:
        row: dict[str, float] = {}
        for layer, singular in self._spectrum.measure_all(self._process).items():
            row |= {f"sigma/{layer}/{k}": value for k, value in enumerate(singular.raw)}
            row |= {f"sigma/{layer}/normalized_{k}": value for k, value in enumerate(singular.normalized or ())}
            if len(singular.raw) > 1 and singular.raw[1]:
                row[f"sigma/{layer}/ratio"] = singular.raw[0] / singular.raw[1]
            past = self.history.series.get(f"sigma/{layer}/0")
            if past is not None and singular.raw[0] > 0:
                row[f"sigma/{layer}/slope"] = log_slope(past, step, singular.raw[0])
        return row

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the state for a checkpoint: file -> name -> tensor in host memory. Collective."""
        return {
            "history": self.history.tensors(),
            "window": self._window.tensors(self._process.group),
            "spectrum": self._spectrum.state(self._process),
        }

    def restore(self, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore the state from a checkpoint."""
        self.history.restore(saved["history"])
        self._window.restore(saved["window"], self._process.device)
        self._spectrum.restore(saved["spectrum"])


def with_spreads(row: Mapping[str, float]) -> dict[str, float]:
    """Replace the means of squared logits by the standard deviations of the logits."""
    spreads = {name: value for name, value in row.items() if not name.endswith("_square")}
    for name in ("d_logit_real", "d_logit_fake"):
        spreads[f"{name}_spread"] = math.sqrt(max(0.0, row[f"{name}_square"] - row[name] ** 2))
    return spreads


def log_slope(past: Series, step: int, value: float) -> float:
    """Return the growth of a positive signal's logarithm per 1,000 steps, over its last few observations."""
    since, before = past.steps[-SLOPE_OBSERVATIONS:][0], past.values[-SLOPE_OBSERVATIONS:][0]
    return 1000 * math.log(value / before) / (step - since) if before > 0 else math.nan
