"""The spectrum against exact singular values, with drifting, non-finite and restored weights."""

from pathlib import Path

import pytest
import torch
from runs import biggan, run_worker
from safetensors.torch import load_file
from torch import nn

from biggan.collapse import subspace
from biggan.collapse.spectrum import Spectrum, assign_to_processes
from biggan.collapse.subspace import TOLERANCE
from biggan.config import Config
from biggan.config.preset import resolve
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.models.layers import SpectralNorm, as_matrix
from biggan.startup import build
from biggan.startup.recipe import compose
from biggan.training.step import train_step

pytestmark = pytest.mark.numeric

WORKER = Path(__file__).with_name("spectrum_worker.py")
ALONE = Process(0, 1, torch.device("cpu"), None)


def with_spectrum(values, n=700, seed=0):
    """Return a float32 matrix [m, n] with these singular values and random singular vectors."""
    random = torch.Generator().manual_seed(seed)
    m = len(values)
    left, _ = torch.linalg.qr(torch.randn(m, m, generator=random, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(n, m, generator=random, dtype=torch.float64))
    return ((left * torch.as_tensor(values, dtype=torch.float64)) @ right.T).float()


def flat(m, n, seed=0):
    """Return a Gaussian matrix: at the edge of its spectrum (Marchenko & Pastur) singular values are close together."""
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed)) * 0.02


def spread(*first, rest):
    return torch.cat([torch.tensor(first, dtype=torch.float64), rest.double()])


def network_of(*weights):
    """Return linear layers "0", "1", ... with these weights."""
    layers = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights)
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data = weight
    return layers


def set_weight(network, weight):
    network[0].weight.data.copy_(weight)


def exact(weight, count=3):
    return torch.linalg.svdvals(as_matrix(weight.detach()).double())[:count]


def measured(spectrum, layer="G.0"):
    return torch.tensor(spectrum.measure()[layer].raw, dtype=torch.float64)


def assert_close(actual, weight, relative=TOLERANCE):
    """Within what the measurement promises: it stops at a residual of TOLERANCE, which is twice the error at most."""
    torch.testing.assert_close(actual, exact(weight), rtol=relative, atol=0)


@pytest.fixture
def passes(monkeypatch):
    """List with one entry per block that was orthonormalized and multiplied with a weight."""
    blocks = []
    plain = subspace.orthonormal
    monkeypatch.setattr(subspace, "orthonormal", lambda *rows: (blocks.append(1), plain(*rows))[1])
    return blocks


SPECTRA = {
    "flat wide": flat(256, 2304),
    "flat tall": flat(1200, 148),
    "flat square": flat(384, 384),
    "flat large": flat(512, 4608),
    "all equal": with_spectrum(torch.ones(96)),
    "three nearly equal": with_spectrum(spread(1, 1 - 1e-5, 1 - 2e-5, rest=torch.full((197,), 0.5))),
    "thirty nearly equal": with_spectrum(spread(*(1 - 1e-6 * k for k in range(30)), rest=torch.full((170,), 0.99))),
    "slow decay": with_spectrum(torch.linspace(1, 0.9, 200)),
    "fast decay": with_spectrum(0.5 ** torch.arange(64, dtype=torch.float64)),
    "one 10 times the rest": with_spectrum(spread(1, rest=torch.linspace(0.1, 0.05, 199))),
    "one 300 times the rest": with_spectrum(spread(1, rest=torch.linspace(0.0033, 0.002, 199))),
    "about to overflow": with_spectrum(torch.linspace(1, 0.5, 100)) * 1e30,
    "about to underflow": with_spectrum(torch.linspace(1, 0.5, 100)) * 1e-30,
    "fewer rows than vectors": flat(5, 40),
    "one row": flat(1, 64),
}


@pytest.mark.parametrize("weight", SPECTRA.values(), ids=SPECTRA.keys())
def test_a_cold_start_finds_the_largest_singular_values(weight):
    assert_close(measured(Spectrum({"G": network_of(weight)}, 3, 0, 1)), weight)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_rank_deficient_weights_have_small_errors_relative_to_sigma_0(rank):
    factors = torch.randn(200, rank), torch.randn(rank, 500)
    weight = factors[0] @ factors[1]
    network = network_of(weight)
    spectrum = Spectrum({"G": network}, 3, 0, 1)
    for _ in range(2):  # cold, then from a basis that holds arbitrary vectors
        found, true = measured(spectrum), exact(weight)
        assert (found - true).abs().max() <= 1e-5 * true[0]  # values of 0 are 1e-7 to 1e-6 in float32
    set_weight(network, flat(200, 500))
    assert_close(measured(spectrum), flat(200, 500))


def test_weights_of_equal_shape_are_measured_independently():
    weights = [flat(60, 90), flat(60, 90, seed=1).t().contiguous(), with_spectrum(torch.ones(60), 90), flat(60, 90, 2)]
    spectrum = Spectrum({"G": network_of(*weights)}, 3, 0, 1)
    found = spectrum.measure()
    for k, weight in enumerate(weights):
        assert_close(torch.tensor(found[f"G.{k}"].raw, dtype=torch.float64), weight)


def test_a_warm_start_tracks_a_drifting_weight_in_a_few_passes(passes):
    weight = flat(384, 1500)
    network = network_of(weight)
    spectrum = Spectrum({"G": network}, 3, 0, 1)
    measured(spectrum)
    cold = len(passes)
    drift = torch.Generator().manual_seed(1)
    for _ in range(10):
        weight = weight + 0.01 * 0.02 * torch.randn(weight.shape, generator=drift)
        set_weight(network, weight)
        passes.clear()
        assert_close(measured(spectrum), weight)
        assert len(passes) <= 5 < cold


def test_expansions_are_bounded_and_the_next_measurement_continues(passes, monkeypatch):
    monkeypatch.setattr(subspace, "MAX_EXPANSIONS", 3)
    weight = flat(384, 1500)
    spectrum = Spectrum({"G": network_of(weight)}, 3, 0, 1)
    first = measured(spectrum)
    assert len(passes) == 4
    assert (first < exact(weight) * (1 - 1e-3)).any()  # three expansions are not enough
    for _ in range(5):
        last = measured(spectrum)
    assert_close(last, weight)


def test_a_singular_value_outside_the_basis_is_found_by_the_next_measurements():
    """The basis spans only the first 20 coordinates, which the weight does not mix with the others."""
    weight = torch.zeros(400, 800)
    weight[:20, :20] = torch.diag(torch.linspace(1, 0.5, 20))
    weight[20:, 20:] = 0.1 * flat(380, 780)
    weight[300, 500] = 1.2
    spectrum = Spectrum({"G": network_of(weight)}, 3, 0, 1)
    spectrum.restore({"G.0": torch.eye(8, 400)})
    for _ in range(3):
        found = measured(spectrum)
    assert_close(found, weight)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 3e38])
def test_non_finite_weights_give_nan_and_do_not_affect_later_measurements(bad):
    weights = [flat(60, 90), flat(60, 90, seed=1)]
    network = network_of(*weights)
    spectrum = Spectrum({"G": network}, 3, 0, 1)
    spectrum.measure()
    network[0].weight.data = weights[0].clone()
    network[0].weight.data[3, 4] = bad
    found = spectrum.measure()
    assert torch.tensor(found["G.0"].raw).isnan().all()
    assert_close(torch.tensor(found["G.1"].raw, dtype=torch.float64), weights[1])
    network[1].weight.data = network[1].weight * bad
    assert all(torch.tensor(values.raw).isnan().all() for values in spectrum.measure().values())
    set_weight(network, weights[0])
    assert_close(measured(spectrum), weights[0])


def drifting(network, k):
    random = torch.Generator().manual_seed(k)
    for parameter in network.parameters():
        parameter.data += 1e-3 * torch.randn(parameter.shape, generator=random)


def test_a_restored_spectrum_continues_bit_for_bit():
    network = network_of(flat(60, 90), flat(60, 90, seed=1), flat(30, 20))
    straight = Spectrum({"G": network}, 3, 0, 1)
    straight.measure()
    drifting(network, 0)
    straight.measure()
    state = straight.state(ALONE)
    drifting(network, 1)
    expected = straight.measure()
    for basis in state.values():  # not a view of the stack, all of which would be sent to the other processes
        assert basis.untyped_storage().nbytes() == basis.nbytes
    resumed = Spectrum({"G": network}, 3, 0, 1)
    resumed.measure()  # earlier measurements do not matter
    resumed.restore(state)
    assert resumed.measure() == expected
    resumed.restore({})
    assert resumed.measure() == Spectrum({"G": network}, 3, 0, 1).measure() != expected


@pytest.mark.parametrize("top", [2, 5])
def test_bases_of_another_top_are_reused(top, passes):
    weight = flat(384, 1500)
    network = network_of(weight)
    before = Spectrum({"G": network}, 3, 0, 1)
    before.measure()
    after = Spectrum({"G": network}, top, 0, 1)
    cold = Spectrum({"G": network}, top, 0, 1)
    passes.clear()
    cold.measure()
    cold_passes = len(passes)
    after.restore(before.state(ALONE))
    passes.clear()
    torch.testing.assert_close(measured(after), exact(weight, top), rtol=TOLERANCE, atol=0)
    assert len(passes) < cold_passes


RANDOM_COSTS = (torch.rand(40, generator=torch.Generator().manual_seed(0)) ** 4 * 1000).int().tolist()


@pytest.mark.parametrize("costs", [[1, 1, 2], [2, 1, 1], RANDOM_COSTS], ids=["last", "first", "random"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_the_load_of_each_process_is_within_grahams_bound(costs, world_size):
    owners = assign_to_processes(costs, world_size)
    loads = [sum(c for c, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(world_size)]
    assert sum(loads) == sum(costs)
    # Graham 1969: at most 4/3 of the best assignment, which is at least this.
    assert max(loads) <= 4 / 3 * max(sum(costs) / world_size, max(costs))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_layers_are_sharded_and_all_processes_get_equal_values(processes):
    run_worker(WORKER, processes)


def gan_of(tiny, *overrides) -> tuple[Config, object]:
    config = resolve(Path(tiny[0]), [*tiny[1:], *overrides])
    return config, build.gan(config, ALONE, FiniteGuard(ALONE.device))


def networks_of(gan):
    return {"G": gan.generator.module, "D": gan.discriminator.module}


def training_state(gan):
    tensors = [gan.generator.module, gan.discriminator.module, gan.ema.module]
    named = [dict(network.state_dict()) for network in tensors]
    named += [dict(engine.optimizer_state()) for engine in (gan.generator, gan.discriminator)]
    return [{name: t.clone() for name, t in tensors.items()} for tensors in named]


def test_measuring_does_not_change_the_training_state(tiny):
    config, gan = gan_of(tiny, "training.precision=bfloat16")
    real = iter([(torch.rand(12, 3, 32, 32), torch.zeros(12, dtype=torch.long))] * 2)
    recipe = compose(config, gan, build.autocast(config, ALONE.device))
    train_step(gan, 1, real, build.draws(config, ALONE), recipe)
    before, random = training_state(gan), torch.get_rng_state()
    spectrum = Spectrum(networks_of(gan), 3, 0, 1)
    plain = spectrum.measure()
    assert torch.equal(torch.get_rng_state(), random)
    for old, new in zip(before, training_state(gan), strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)
    spectrum.restore({})
    with torch.autocast("cpu", torch.bfloat16):
        assert spectrum.measure() == plain


@pytest.mark.slow
@pytest.mark.parametrize("initialization", ["orthogonal", "normal"])
def test_every_weight_of_a_trained_run_matches_svdvals(tiny, tmp_path, initialization):
    overrides = ["model.channels=8", f"model.initialization={initialization}", "training.steps=12"]
    biggan(["train", *tiny, *overrides])
    _, gan = gan_of(tiny, *overrides)
    networks = networks_of(gan)
    spectrum = Spectrum(networks, 3, 0, 1)
    spectrum.measure()  # of the initial weights, for a warm start on the trained ones; the second spectrum starts cold
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000012"
    networks["G"].load_state_dict(load_file(checkpoint / "generator.safetensors"))
    networks["D"].load_state_dict(load_file(checkpoint / "discriminator.safetensors"))
    modules = {f"{n}.{path}": m for n, network in networks.items() for path, m in network.eval().named_modules()}
    expected = {name for name, m in modules.items() if getattr(getattr(m, "weight", None), "ndim", 0) >= 2}
    assert set(spectrum.layers) == expected
    assert {"G.linear", "G.class_embedding", "G.blocks.0.bn1.gain", "D.blocks.1.conv_shortcut"} <= expected
    for found in (spectrum.measure(), Spectrum(networks, 3, 0, 1).measure()):
        for name, module in modules.items():
            if name not in expected:
                continue
            assert_close(torch.tensor(found[name].raw, dtype=torch.float64), module.weight)
            if isinstance(module, SpectralNorm):
                applied = torch.tensor(found[name].normalized, dtype=torch.float64)
                assert_close(applied, module.normalized_weight())
            else:
                assert found[name].scale is found[name].normalized is None
