"""Compare the trace recorded without storage with a real training step."""

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
from biggan.training.step import update_discriminator, update_generator


@pytest.fixture
def config(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)

    def resolved(*overrides):
        return resolve(tmp_path / "tiny.yaml", ["run.dir=x", "data.path=y", *overrides])

    return resolved


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trace_matches_flop_and_saved_bytes_of_a_real_step(config, precision):
    config = config(f"training.precision={precision}", "training.d_steps=1", "model.channels=4")
    process = Process(0, 1, torch.device("cpu"), None)
    gan = build.gan(config, process, FiniteGuard(process.device))
    recipe, n = build.recipe(config, process), 6
    x, y = torch.rand(n, 3, 32, 32), torch.zeros(n, dtype=torch.long)
    networks = (gan.generator.module, gan.discriminator.module)
    weights = {p.untyped_storage().data_ptr() for network in networks for p in network.parameters()}
    kept, totals = {}, []

    def pack(saved):
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        for update, arguments in ((update_discriminator, (itertools.repeat((x, y)),)), (update_generator, ())):
            kept.clear()
            update(gan, *arguments, iter([(torch.randn(n, config.model.effective_z_dim), y)]), recipe)
            totals.append(sum(kept.values()))
    trace = record(config, n)
    assert trace.flop == counter.get_total_flops()
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
