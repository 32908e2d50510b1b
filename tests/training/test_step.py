"""A step: penalties, freezing and rates change it as documented, and nothing else."""

import itertools

import pytest
import torch
from bounds import FEW_OPERATIONS32
from runs import TINY

from biggan.config.interventions import in_force
from biggan.config.preset import resolve
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.models.layers import as_matrix
from biggan.objectives.penalties import twice_differentiable
from biggan.random import keyed_generator
from biggan.startup import build
from biggan.startup.recipe import compose
from biggan.training.step import train_step, update_discriminator

pytestmark = pytest.mark.numeric

ALONE = Process(0, 1, torch.device("cpu"), None)
IMAGES = 12


@pytest.fixture
def begin(tmp_path):
    """A function from overrides to (networks, draws, recipe)."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def begun(*overrides, since_step=0):
        config = resolve(tmp_path / "tiny.yaml", ["run.dir=x", "data.path=y", "model.channels=4", *overrides])
        gan = build.gan(config, ALONE, FiniteGuard(ALONE.device))
        recipe = compose(in_force(config), gan, build.autocast(config, ALONE.device), since_step)
        return gan, build.draws(config, ALONE), recipe

    return begun


def real_batches(step, images=IMAGES):
    random = keyed_generator("real", step)
    while True:
        x = torch.rand(images, 3, 32, 32, generator=random) * 2 - 1
        yield x, torch.randint(10, (images,), generator=random)


def trained(gan, draws, recipe, steps):
    return [train_step(gan, step, real_batches(step), draws, recipe) for step in steps]


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
    out_of_reach = ["spectral.penalty=1.0", "spectral.clamp=true", "spectral.target=1e6", "spectral.layers=['*']"]
    idle = [f"objective.{key}" for key in ("r1.every_d_steps=4", "gradient_penalty.target=0", *out_of_reach)]
    ends = []
    for overrides in ([], idle, [f"intervention.{key}" for key in idle]):
        gan, draws, recipe = begin(*overrides)
        trained(gan, draws, recipe, (1, 2))
        ends.append(everything(gan))
    assert equal(ends[0], ends[1])
    assert equal(ends[0], ends[2])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_r1_is_a_term_of_ds_gradient_and_its_power_iteration_advances_once(begin, accumulation):
    gradients, vectors = [], []
    for r1_gamma in (0.0, 3.0):
        split = f"training.accumulation={accumulation}", "data.streams=2"
        gan, draws, recipe = begin(*split, f"objective.r1.gamma={r1_gamma}")
        update_discriminator(gan, real_batches(1, 6), draws(1, 0), recipe.d_turn(1, 0))
        # beta1 is 0: exp_avg is the gradient.
        gradients.append({k: v.clone() for k, v in gan.discriminator.optimizer_state() if k.endswith("exp_avg")})
        vectors.append([b.clone() for b in gan.discriminator.module.buffers()])
    assert equal(*vectors)

    D, penalties = begin(*split)[0].discriminator.module, []
    for x, y in itertools.islice(real_batches(1, 6), accumulation):
        x.requires_grad_()
        with twice_differentiable(True):
            (gradient,) = torch.autograd.grad(D(x, y).sum(), x, create_graph=True)
        penalties.append(gradient.square().sum((1, 2, 3)).mean() / 2)
    (sum(penalties) / accumulation * 3.0).backward()
    for name, p in D.named_parameters():
        added = gradients[1][f"{name}/exp_avg"] - gradients[0][f"{name}/exp_avg"]
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        # The difference of gradients of size 1 to 10 has their rounding, 1e-6.
        torch.testing.assert_close(added, expected, rtol=1e-3, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("d_steps", [1, 2, 3])
@pytest.mark.parametrize("every", [1, 4, 16])
def test_lazy_r1_is_as_strong_on_average(begin, d_steps, every):
    _, _, recipe = begin(f"training.d_steps={d_steps}", "objective.r1.gamma=0.5", f"objective.r1.every_d_steps={every}")

    def strength(turn):
        assert {term.name for term, _ in turn.terms} <= {"r1"}
        return sum(weight.item() for _, weight in turn.terms)

    strengths = [strength(recipe.d_turn(step, k)) for step in range(1, 33) for k in range(d_steps)]
    assert sum(strengths) / len(strengths) == pytest.approx(0.5)
    assert {k for k, s in enumerate(strengths) if s} == set(range(0, len(strengths), every))


@pytest.mark.parametrize("network", ["g", "d"])
def test_a_frozen_network_stays_bit_for_bit_until_its_time_is_over(begin, network):
    target = ["objective.spectral.target=0.5", "objective.spectral.layers=['*']"]
    clamped = ["objective.spectral.clamp=true", *target]
    gan, draws, recipe = begin(f"training.freeze_{network}_steps=2", *clamped, since_step=2)
    thawed = begin()[2]
    trained(gan, draws, thawed, (1, 2))  # Adam and the average have moved before
    engine = {"g": gan.generator, "d": gan.discriminator}[network]
    other = {"d": gan.generator, "g": gan.discriminator}[network]
    kept = [engine.module, engine] + ([gan.ema.module] if network == "g" else [])
    before, others = state(*kept), state(other.module)
    seen = real_batches(3)
    stats = train_step(gan, 3, seen, draws, recipe)
    stats = [stats, train_step(gan, 4, seen, draws, recipe)]
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
    trained(gan, draws, recipe, (5,))
    assert not equal(state(engine.module), before[: len(list(engine.module.parameters()))])


def test_statistics_are_those_of_the_logits_over_all_micro_batches_of_all_d_updates(begin):
    gan, draws, recipe = begin("training.accumulation=3", "data.streams=2", "training.d_steps=2")
    logits = []
    gan.discriminator.module.register_forward_hook(lambda _module, _inputs, out: logits.append(out.detach().double()))
    stats = train_step(gan, 1, real_batches(1, 4), draws, recipe)
    assert [len(out) for out in logits] == 6 * [8] + 3 * [4]
    fake, real = (torch.cat([out[half] for out in logits[:6]]) for half in (slice(0, 4), slice(4, 8)))
    for name, x, right in (("real", real, real > 0), ("fake", fake, fake < 0)):
        mean, square = stats[f"d_logit_{name}"], stats[f"d_logit_{name}_square"]
        assert mean.item() == pytest.approx(x.mean().item(), abs=FEW_OPERATIONS32)
        assert (square - mean**2).sqrt().item() == pytest.approx(x.std(correction=0).item(), rel=1e-3)  # squares cancel
        assert stats[f"d_accuracy_{name}"].item() == pytest.approx(right.double().mean().item())


def test_the_clamp_follows_each_update_of_the_chosen_layers(begin):
    chosen = ["objective.spectral.layers=['G.linear','D.blocks.*.conv1']", "objective.spectral.target=0.8"]
    gan, draws, recipe = begin("objective.spectral.clamp=true", *chosen)
    trained(gan, draws, recipe, range(1, 16))

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
        chosen = ["objective.spectral.layers=['G.linear','D.blocks.1.conv1']", "objective.spectral.target=0.5"]
        gan, draws, recipe = begin(f"objective.spectral.penalty={strength}", *chosen, "training.d_steps=1")
        trained(gan, draws, recipe, range(1, 6))
        weights = gan.generator.module.linear.weight, gan.discriminator.module.blocks[1].conv1.weight
        ends.append([as_matrix(w.detach()).norm().item() for w in weights])
    assert all(held < free * 0.9999 for free, held in zip(*ends, strict=True))


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_scheduled_learning_rate_holds_for_the_updates_of_its_steps(begin, network):
    gan, draws, recipe = begin(f"optimizer.{network[0]}_lr={{step: {{0: 2e-4, 2: 0, 3: 2e-4}}}}")
    unchanged, _, constant = begin()
    for steps in (gan, draws, recipe), (unchanged, draws, constant):
        trained(*steps, (1,))
    assert equal(everything(gan), everything(unchanged))
    engine = getattr(gan, network)
    before = state(engine.module)
    trained(gan, draws, recipe, (2,))
    assert equal(state(engine.module), before)
    trained(gan, draws, recipe, (3,))
    assert not any(torch.equal(*pair) for pair in zip(state(engine.module), before, strict=True))


@pytest.mark.parametrize("change", ["g_lr=1e-3", "d_lr=x2", "beta1=0.5", "beta2=0.9", "eps=1e-2", "max_grad_norm=1e-3"])
def test_every_setting_of_adam_can_be_changed(begin, change):
    key, _, value = change.partition("=")
    given = f"optimizer.{key}={'4e-4' if value == 'x2' else value}"
    ends = []
    for overrides in ([], [given], [f"intervention.optimizer.{change}"]):
        gan, draws, recipe = begin(*overrides)
        trained(gan, draws, recipe, (1, 2))
        ends.append(everything(gan))
    assert not equal(ends[0], ends[1])
    assert equal(ends[1], ends[2])


def test_an_intervention_replaces_the_values_of_its_keys(begin):
    *_, recipe = begin("intervention.objective.orthogonal=0.25", "intervention.training.d_steps=5")
    ((term, weight),) = recipe.g_turn(1).weight_terms
    assert (term.name, weight.item(), recipe.d_steps) == ("orthogonal", 0.25, 5)


@pytest.mark.parametrize("network", ["g", "d"])
def test_lower_layers_stay_bit_for_bit_until_their_time_is_over_and_all_others_move(begin, network):
    target = ["objective.spectral.target=0.5", "objective.spectral.layers=['*']"]
    clamped = ["objective.spectral.clamp=true", "objective.orthogonal=0.1", *target]
    freeze = [f"init.freeze_{network}_blocks=2", f"init.freeze_{network}_steps=2", "init.from=elsewhere"]
    gan, draws, recipe = begin(*freeze, *clamped, "optimizer.max_grad_norm=0.1")
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
    trained(gan, draws, recipe, (1, 2))
    after = weights(engine.module)
    stayed = {name for name in before if torch.equal(before[name], after[name])}
    assert stayed == {name for name in before if name.startswith(parts[network])}
    if network == "g":
        assert {name for name, value in weights(gan.ema.module).items() if torch.equal(value, average[name])} == stayed
    # Adam knows their gradients: its first update afterwards is of the usual size.
    squares = {key: value for key, value in engine.optimizer_state() if key.endswith("exp_avg_sq")}
    assert all(squares[f"{name}/exp_avg_sq"].any() for name in stayed)
    trained(gan, draws, recipe, (3,))
    assert not [name for name, value in weights(engine.module).items() if torch.equal(value, after[name])]


def test_what_belongs_to_single_classes_is_always_trained(begin):
    freeze = ["init.from=elsewhere", "init.freeze_g_blocks=3", "init.freeze_g_steps=9"]
    gan, draws, recipe = begin(*freeze, "model.class_embedding_dim=0", "model.hierarchical_z=false")
    tables = [m.weight for m in gan.generator.module.blocks.modules() if isinstance(m, torch.nn.Embedding)]
    before = [table.detach().clone() for table in tables]
    trained(gan, draws, recipe, (1, 2))
    assert len(tables) == 12
    assert not any(torch.equal(table, old) for table, old in zip(tables, before, strict=True))
