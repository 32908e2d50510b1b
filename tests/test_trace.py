"""Compare the trace recorded without storage with real training steps."""

import itertools
from collections import Counter

import pytest
import torch
from runs import TINY
from torch.utils.flop_counter import FlopCounterMode

from biggan.config.preset import resolve
from biggan.cost.scaling import Collective, GradientReady, Operation
from biggan.cost.trace import record
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.startup import build
from biggan.startup.recipe import compose
from biggan.training.step import train_step


@pytest.fixture
def config(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)

    def resolved(*overrides):
        return resolve(tmp_path / "tiny.yaml", ["run.dir=x", "data.path=y", *overrides])

    return resolved


R1_EVERY_SECOND = ["objective.r1.gamma=1", "objective.r1.every_d_steps=2"]
WITH_EXTRA_ROWS = ["objective.loss=wasserstein", "objective.gradient_penalty.weight=10", "model.d_spectral_norm=false"]
WITH_REAL_FOR_G = ["objective.loss=relativistic_paired", "objective.augment=[color,translation,cutout]"]


@pytest.mark.parametrize(
    "overrides",
    [[], ["training.precision=bfloat16"], R1_EVERY_SECOND, WITH_EXTRA_ROWS, WITH_REAL_FOR_G],
    ids=["float32", "bfloat16", "R1", "WGAN-GP", "relativistic"],
)
def test_trace_matches_flop_and_saved_bytes_of_real_steps(config, overrides):
    n = 6
    config = config("training.d_steps=1", "model.channels=4", f"training.batch_size={n}", *overrides)
    process = Process(0, 1, torch.device("cpu"), None)
    gan = build.gan(config, process, FiniteGuard(process.device))
    recipe, plain_draws = compose(config, gan, build.autocast(config, process.device)), build.draws(config, process)
    x, y = torch.rand(n, 3, 32, 32), torch.zeros(n, dtype=torch.long)
    networks = (gan.generator.module, gan.discriminator.module)
    weights = {p.untyped_storage().data_ptr() for network in networks for p in network.parameters()}
    kept, totals = {}, []

    def draws(step, update_index):
        for draw in plain_draws(step, update_index):
            kept.clear()
            yield draw
            totals.append(sum(kept.values()))

    def pack(saved):
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        for step in (1, 2):
            train_step(gan, step, itertools.repeat((x, y)), draws, recipe)
    trace = record(config, n)
    assert trace.flop == counter.get_total_flops() / 2
    assert trace.real_micro_batches == (2 if overrides == WITH_REAL_FOR_G else 1)
    assert trace.activation_bytes == pytest.approx(max(totals), rel=0.02)  # bytes: small buffers of kernels


def test_trace_is_linear_in_the_number_of_images(config):
    two, four, six = (record(config("model.channels=8"), n) for n in (2, 4, 6))
    for a, b, c in zip(two.steps, four.steps, six.steps, strict=True):
        for first, middle, last in zip(a.events, b.events, c.events, strict=True):
            if isinstance(first, Operation):
                assert 2 * middle.flop == first.flop + last.flop
                assert 2 * middle.bytes == first.bytes + last.bytes
            else:
                assert first == middle == last


def test_accumulation_repeats_everything_but_update_and_regularizer(config):
    def counts(trace):
        totals = Counter()
        for step in trace.steps:
            for event in step.events:
                totals[type(event).__name__, getattr(event, "name", "")] += step.repeats
        return totals

    once, thrice = (record(config(f"training.accumulation={a}", "data.streams=2"), 2) for a in (1, 3))
    layers = 7
    assert counts(once)["Collective", "all_gather"] == layers * 3  # two D steps and a G step
    assert counts(thrice)["Collective", "all_gather"] == 3 * layers * 3
    assert counts(thrice)["Collective", "all_reduce"] == 3 * layers
    assert sum(s.repeats for s in thrice.steps if s.boundary) == 3
    assert sum(s.repeats for s in thrice.steps) == 9
    assert thrice.flop < 3 * once.flop
    for trace in (once, thrice):
        sizes = [sum(e.bytes for e in s.events if isinstance(e, GradientReady)) for s in trace.steps if s.boundary]
        assert sizes == [4 * trace.d_parameters, 4 * trace.g_parameters]
    assert {e.cause for s in once.steps for e in s.events if isinstance(e, Collective)} == {"batchnorm"}
