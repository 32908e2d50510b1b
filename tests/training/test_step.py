"""Interventions change a step as documented, and nothing else."""

import itertools

import pytest
import torch
from bounds import FEW_OPERATIONS32
from runs import TINY

from biggan.config.preset import resolve
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.models.layers import as_matrix
from biggan.objectives.regularizers import r1_penalty, twice_differentiable
from biggan.random import keyed_generator
from biggan.startup import build
from biggan.training.step import train_step, update_discriminator

pytestmark = pytest.mark.numeric

ALONE = Process(0, 1, torch.device("cpu"), None)
IMAGES = 12


@pytest.fixture
def begin(tmp_path):
    """A function from overrides to (networks, latents, recipe)."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def begun(*overrides, **after):
        config = resolve(tmp_path / "tiny.yaml", ["run.dir=x", "data.path=y", "model.channels=4", *overrides])
        gan = build.gan(config, ALONE, FiniteGuard(ALONE.device))
        return gan, build.draws(config, ALONE), build.recipe(config, ALONE, **after)

    return begun


def real_batches(step, images=IMAGES):
    random = keyed_generator("real", step)
    while True:
        x = torch.rand(images, 3, 32, 32, generator=random) * 2 - 1
        yield x, torch.randint(10, (images,), generator=random)


def trained(gan, latents, recipe, steps):
    return [train_step(gan, step, real_batches(step), latents, recipe) for step in steps]


def state(*modules_and_engines):
    found = []
    for thing in modules_and_engines:
        named = thing.named_parameters() if isinstance(thing, torch.nn.Module) else thing.optimizer_state()
        found += [value.detach().clone() for _, value in named]
    return found


def everything(gan):
    G, D = gan.generator, gan.discriminator
    buffers = [b.clone() for network in (G.module, D.module, gan.ema.module) for b in network.buffers()]
    return state(G.module, D.module, gan.ema.module, G, D) + buffers


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_interventions_that_have_nothing_to_do_change_no_bit(begin):
    out_of_reach = ["spectral_penalty=1.0", "spectral_clamp=true", "spectral_target=1e6", "spectral_layers=['*']"]
    idle = ["r1_every_d_steps=4", *out_of_reach]
    ends = []
    for overrides in ([], [f"intervention.{key}" for key in idle]):
        gan, latents, recipe = begin(*overrides)
        trained(gan, latents, recipe, (1, 2))
        ends.append(everything(gan))
    assert equal(*ends)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_r1_is_a_term_of_ds_gradient_and_its_power_iteration_advances_once(begin, accumulation):
    gradients, vectors = [], []
    for r1_gamma in (0.0, 3.0):
        gan, latents, recipe = begin(f"training.accumulation={accumulation}", "data.streams=2")
        update_discriminator(gan, real_batches(1, 6), latents(1, 0), recipe, r1_gamma)
        # beta1 is 0: exp_avg is the gradient.
        gradients.append({k: v.clone() for k, v in gan.discriminator.optimizer_state() if k.endswith("exp_avg")})
        vectors.append([b.clone() for b in gan.discriminator.module.buffers()])
    assert equal(*vectors)

    gan, _, _ = begin(f"training.accumulation={accumulation}", "data.streams=2")
    D, penalties = gan.discriminator.module, []
    for x, y in itertools.islice(real_batches(1, 6), accumulation):
        x.requires_grad_()
        with twice_differentiable(True):
            penalties.append(r1_penalty(D(x, y), x))
    (sum(penalties) / accumulation * 3.0).backward()
    for name, p in D.named_parameters():
        added = gradients[1][f"{name}/exp_avg"] - gradients[0][f"{name}/exp_avg"]
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        # The difference of gradients of size 1 to 10 has their rounding, 1e-6.
        torch.testing.assert_close(added, expected, rtol=1e-3, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("d_steps", [1, 2, 3])
@pytest.mark.parametrize("every", [1, 4, 16])
def test_lazy_r1_is_as_strong_on_average(begin, d_steps, every):
    _, _, recipe = begin(
        f"intervention.d_steps={d_steps}", "intervention.r1_gamma=0.5", f"intervention.r1_every_d_steps={every}"
    )
    strengths = [recipe.r1_gamma_at(step, use) for step in range(1, 33) for use in range(d_steps)]
    assert sum(strengths) / len(strengths) == pytest.approx(0.5)
    assert {k for k, s in enumerate(strengths) if s} == set(range(0, len(strengths), every))


@pytest.mark.parametrize("network", ["g", "d"])
def test_a_frozen_network_stays_bit_for_bit_until_its_time_is_over(begin, network):
    target = ["intervention.spectral_target=0.5", "intervention.spectral_layers=['*']"]
    clamped = ["intervention.spectral_clamp=true", *target]
    gan, latents, recipe = begin(f"intervention.freeze_{network}_steps=2", *clamped, since_step=2)
    thawed = begin()[2]
    trained(gan, latents, thawed, (1, 2))  # Adam and the average have moved before
    engine = {"g": gan.generator, "d": gan.discriminator}[network]
    other = {"d": gan.generator, "g": gan.discriminator}[network]
    kept = [engine.module, engine] + ([gan.ema.module] if network == "g" else [])
    before, others = state(*kept), state(other.module)
    seen = real_batches(3)
    stats = train_step(gan, 3, seen, latents, recipe)
    stats = [stats, train_step(gan, 4, seen, latents, recipe)]
    assert equal(state(*kept), before)
    assert not equal(state(other.module), others)
    assert all(value.isfinite() and value.ndim == 0 for row in stats for value in row.values())
    assert stats[0]["g_loss"] != stats[1]["g_loss"]
    assert stats[0].keys() == {
        *("g_loss", "g_grad_norm", "d_grad_norm", "d_loss_real", "d_loss_fake", "d_logit_real", "d_logit_fake"),
        *("d_logit_real_square", "d_logit_fake_square", "d_accuracy_real", "d_accuracy_fake"),
    }
    assert stats[0][f"{network}_grad_norm"] > 0
    assert torch.equal(next(seen)[0], next(itertools.islice(real_batches(3), 4, None))[0]), "a batch for every D step"
    trained(gan, latents, recipe, (5,))
    assert not equal(state(engine.module), before[: len(list(engine.module.parameters()))])


def test_statistics_are_those_of_the_logits_over_all_micro_batches(begin):
    gan, latents, recipe = begin("training.accumulation=3", "data.streams=2", "training.d_steps=1")
    logits = []
    gan.discriminator.module.register_forward_hook(lambda _module, _inputs, out: logits.append(out.detach().double()))
    stats = update_discriminator(gan, real_batches(1, 4), latents(1, 0), recipe)
    fake, real = (torch.cat([out[half] for out in logits]) for half in (slice(0, 4), slice(4, 8)))
    for name, x, right in (("real", real, real > 0), ("fake", fake, fake < 0)):
        mean, square = stats[f"d_logit_{name}"], stats[f"d_logit_{name}_square"]
        assert mean.item() == pytest.approx(x.mean().item(), abs=FEW_OPERATIONS32)
        assert (square - mean**2).sqrt().item() == pytest.approx(x.std(correction=0).item(), rel=1e-3)  # squares cancel
        assert stats[f"d_accuracy_{name}"].item() == pytest.approx(right.double().mean().item())


def test_the_clamp_follows_each_update_of_the_chosen_layers(begin):
    chosen = ["intervention.spectral_layers=['G.linear','D.blocks.*.conv1']", "intervention.spectral_target=0.8"]
    gan, latents, recipe = begin("intervention.spectral_clamp=true", *chosen)
    trained(gan, latents, recipe, range(1, 16))

    def largest(weight):
        return torch.linalg.svdvals(as_matrix(weight.detach()).double())[0].item()

    D = gan.discriminator.module
    for weight in (gan.generator.module.linear.weight, *(block.conv1.weight for block in D.blocks)):
        assert largest(weight) < 0.85, "orthogonal at first: each clamp lowers one of many equal values"
    assert largest(D.blocks[1].conv2.weight) > 0.99


def test_the_penalty_pulls_both_networks_layers_down(begin):
    """Nothing but the penalty moves sigma_0 so far: raw weights are free of their scale."""
    ends = []
    for strength in (0.0, 100.0):
        chosen = ["intervention.spectral_layers=['G.linear','D.blocks.1.conv1']", "intervention.spectral_target=0.5"]
        gan, latents, recipe = begin(f"intervention.spectral_penalty={strength}", *chosen, "training.d_steps=1")
        trained(gan, latents, recipe, range(1, 6))
        weights = gan.generator.module.linear.weight, gan.discriminator.module.blocks[1].conv1.weight
        ends.append([as_matrix(w.detach()).norm().item() for w in weights])
    assert all(held < free * 0.9999 for free, held in zip(*ends, strict=True))


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_learning_rate_can_be_set_while_training_goes_on(begin, network):
    gan, latents, recipe = begin()
    trained(gan, latents, recipe, (1,))
    engine = getattr(gan, network)
    before = state(engine.module)
    engine.set_learning_rate(0.0)
    trained(gan, latents, recipe, (2,))
    assert equal(state(engine.module), before)


def test_more_orthogonal_regularization_is_added_and_d_steps_replace(begin):
    _, _, recipe = begin("intervention.orthogonal=0.25", "intervention.d_steps=5")
    assert recipe.orthogonal == 1e-4 + 0.25
    assert recipe.d_steps == 5


@pytest.mark.parametrize("network", ["g", "d"])
def test_lower_layers_stay_bit_for_bit_until_their_time_is_over_and_all_others_move(begin, network):
    target = ["intervention.spectral_target=0.5", "intervention.spectral_layers=['*']"]
    clamped = ["intervention.spectral_clamp=true", "intervention.orthogonal=0.1", *target]
    freeze = [f"init.freeze_{network}_blocks=2", f"init.freeze_{network}_steps=2", "init.from=elsewhere"]
    gan, latents, recipe = begin(*freeze, *clamped, "optimizer.max_grad_norm=0.1")
    engine = {"g": gan.generator, "d": gan.discriminator}[network]
    parts = {
        "g": ("linear.", "blocks.0.", "blocks.1.", "attention.1."),
        "d": ("blocks.0.", "blocks.1.", "attention.0."),
    }
    with torch.no_grad():  # attention that does something has gradients
        for net in (gan.generator.module, gan.discriminator.module, gan.ema.module):
            [value.fill_(0.5) for name, value in net.named_parameters() if name.endswith("gamma")]

    def weights(net):
        return {name: value.detach().clone() for name, value in net.named_parameters()}

    before, average = weights(engine.module), weights(gan.ema.module)
    trained(gan, latents, recipe, (1, 2))
    after = weights(engine.module)
    stayed = {name for name in before if torch.equal(before[name], after[name])}
    assert stayed == {name for name in before if name.startswith(parts[network])}
    if network == "g":
        assert {name for name, value in weights(gan.ema.module).items() if torch.equal(value, average[name])} == stayed
    # Adam knows their gradients: its first update afterwards is of the usual size.
    squares = {key: value for key, value in engine.optimizer_state() if key.endswith("exp_avg_sq")}
    assert all(squares[f"{name}/exp_avg_sq"].any() for name in stayed)
    trained(gan, latents, recipe, (3,))
    assert not [name for name, value in weights(engine.module).items() if torch.equal(value, after[name])]


def test_what_belongs_to_single_classes_is_always_trained(begin):
    freeze = ["init.from=elsewhere", "init.freeze_g_blocks=3", "init.freeze_g_steps=9"]
    gan, latents, recipe = begin(*freeze, "model.class_embedding_dim=0", "model.hierarchical_z=false")
    tables = [m.weight for m in gan.generator.module.blocks.modules() if isinstance(m, torch.nn.Embedding)]
    before = [table.detach().clone() for table in tables]
    trained(gan, latents, recipe, (1, 2))
    assert len(tables) == 12
    assert not any(torch.equal(table, old) for table, old in zip(tables, before, strict=True))
