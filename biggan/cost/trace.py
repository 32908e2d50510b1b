"""Record one process's operations in a G iteration, by running the real training step on tensors without storage."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed import ProcessGroup
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from biggan.config import Config
from biggan.config.extension import ExtensionConfig
from biggan.config.interventions import in_force
from biggan.cost.scaling import Collective, CollectiveName, Event, GradientReady, MicroStep, Operation
from biggan.distributed.engine import AdamSettings, DDPEngine
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.draws import Draw, Draws
from biggan.gan import Ema, Gan
from biggan.models.architecture import configured_architecture
from biggan.models.batchnorm import set_batchnorm_group
from biggan.startup import build
from biggan.startup.recipe import compose, techniques
from biggan.training.step import train_step
from biggan.training.turn import Recipe

MAX_PERIOD = 256
"""Number of steps over which lazy terms are counted at most."""
ALONE = Process(rank=0, world_size=1, device=torch.device("cpu"), group=None)
COLLECTIVES: dict[str, CollectiveName] = {"all_gather_into_tensor": "all_gather", "all_reduce": "all_reduce"}


@dataclass(frozen=True)
class Trace:
    """Recorded G iteration of one process on its slice of each micro-batch."""

    steps: tuple[MicroStep, ...]
    """Micro-steps of the G iteration: for each network those before the last, then the last. They include BatchNorm's
    collectives between processes that share statistics."""
    g_parameters: int
    d_parameters: int
    activation_bytes: int
    """Bytes that autograd keeps for the backward pass of one micro-batch: the larger of the D and the G pass."""
    real_micro_batches: int
    """Real micro-batches that one G iteration reads."""

    @property
    def flop(self) -> float:
        """Return the FLOP of the whole G iteration on this process, on average."""
        return sum(e.flop * s.repeats for s in self.steps for e in s.events if isinstance(e, Operation))


def record(config: Config, images: int) -> Trace:
    """Record the training step of a process that has `images` images of each micro-batch.

    The run is assumed to be on a GPU, so the precision `auto` means bfloat16. One update of each network is recorded
    and counted as often as there are updates. Where a term is not due in every update, each kind of step is recorded.
    An extension is not imported.
    """
    config = in_force(config.with_precision(bfloat16=True)).model_copy(update={"extension": ExtensionConfig()})
    micro_steps = min(2, config.training.accumulation)  # the first and the last; those between equal the first
    recorded: list[MicroStep] = []
    with FakeTensorMode(), fake_group() as group, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        gan = _gan(config)
        for network in (gan.generator.module, gan.discriminator.module):
            set_batchnorm_group(network, group)
        recorder = Recorder([gan.generator.module, gan.discriminator.module])
        recipe = compose(config, gan, build.autocast(config, ALONE.device))
        short = replace(recipe, d_steps=1, accumulation=micro_steps)
        for step, share in kinds_of_steps(short, config.training.steps // 2):
            events = _record_step(recorder, gan, step, short, config, images)
            recorded += _micro_steps(events[:micro_steps], share * recipe.d_steps, recipe.accumulation)
            recorded += _micro_steps(events[micro_steps:], share, recipe.accumulation)
    return Trace(
        tuple(recorded),
        g_parameters=sum(p.numel() for p in gan.generator.module.parameters()),
        d_parameters=sum(p.numel() for p in gan.discriminator.module.parameters()),
        activation_bytes=recorder.peak_saved_bytes,
        real_micro_batches=recipe.real_batches,
    )


def kinds_of_steps(recipe: Recipe, middle: int) -> list[tuple[int, float]]:
    """Return one G step of each kind (the terms that are due in it) and the share of steps of that kind.

    The kinds are counted over one period of all terms, near G step `middle`.
    """
    terms = (*recipe.discriminator.terms, *recipe.generator.terms)
    period = min(MAX_PERIOD, math.lcm(*(term.every for term in terms)))
    first = middle // period * period + 1
    kinds: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for step in range(first, first + period):
        turns = [*(recipe.d_turn(step, k) for k in range(recipe.d_steps)), recipe.g_turn(step)]
        kinds.setdefault(tuple(tuple(term.name for term, _ in turn.terms) for turn in turns), []).append(step)
    return [(steps[0], len(steps) / period) for steps in kinds.values()]


def _record_step(
    recorder: Recorder, gan: Gan, step: int, recipe: Recipe, config: Config, images: int
) -> list[tuple[Event, ...]]:
    """Run `train_step` under the recorder; return the events of every micro-step."""
    x, y = _batch(config, images)
    draws = Draws(
        0, config.model.effective_z_dim, config.model.classes, images, recipe.accumulation, 0, 1, ALONE.device
    )
    drawn = {k: list(draws(step, k)) for k in range(recipe.d_steps + 1)}

    def recorded(_step: int, update_index: int) -> Iterator[Draw]:
        for draw in drawn[update_index]:
            recorder.start_micro_step()
            yield draw

    recorder.micro_steps.clear()
    with recorder, torch.autograd.graph.saved_tensors_hooks(recorder.pack, lambda x: x):
        train_step(gan, step, itertools.repeat((x, y)), recorded, recipe)
    return [tuple(events) for events in recorder.micro_steps]


def _micro_steps(recorded: list[tuple[Event, ...]], share: float, accumulation: int) -> list[MicroStep]:
    """Return one update's recorded micro-steps, the first (if recorded) and the last, with their repeats."""
    first = [MicroStep(events, share * (accumulation - 1), boundary=False) for events in recorded[:-1]]
    return [*first, MicroStep(recorded[-1], share, boundary=True)]


@contextmanager
def fake_group() -> Iterator[ProcessGroup]:
    """Yield a process group of two whose collectives return tensors of the right shape and send nothing."""
    assert not dist.is_initialized(), "record before the processes join"
    # Only the backend "fake" needs neither sockets nor peers. torch registers it when fake_pg is imported from
    # torch.testing._internal; there is no public import.
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        yield cast(ProcessGroup, dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def _gan(config: Config) -> Gan:
    guard = FiniteGuard(ALONE.device)
    networks = configured_architecture(config.model)
    G, D = networks.generator(), networks.discriminator()

    def engine(name: str, network: nn.Module) -> DDPEngine:
        adam = AdamSettings(lr=1e-4, betas=(0.0, 0.999), eps=1e-8, max_grad_norm=0)
        return DDPEngine(network, name=name, adam=adam, process=ALONE, guard=guard)

    ema = Ema(G, 0.0, 0)
    ema.module = networks.generator().requires_grad_(False).eval()  # the deep copy has copied the fake mode as well
    return Gan(engine("G", G), engine("D", D), ema, techniques())


def _batch(config: Config, n: int) -> tuple[Tensor, Tensor]:
    c, r = config.model.image_channels, config.model.resolution
    return torch.empty(n, c, r, r), torch.zeros(n, dtype=torch.long)


class Recorder(TorchDispatchMode):
    """Dispatch mode that records, for each micro-step, operations, collectives, ready gradients and saved bytes."""

    def __init__(self, networks: list[nn.Module]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.micro_steps: list[list[Event]] = []
        self.peak_saved_bytes = 0
        self._parameters = {p.untyped_storage()._cdata for n in networks for p in n.parameters()}
        self._saved: dict[int, int] = {}
        for parameter in itertools.chain(*(n.parameters() for n in networks)):
            parameter.register_post_accumulate_grad_hook(self._gradient_ready)

    def start_micro_step(self) -> None:
        """Start the record of another micro-step."""
        self.micro_steps.append([])
        self._saved.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if func.namespace == "_c10d_functional":
            if name in COLLECTIVES:
                self.micro_steps[-1].append(Collective(COLLECTIVES[name], total_bytes(args[0]), "batchnorm"))
        elif func.namespace == "aten" and not func.is_view and not name.startswith(("empty", "new_empty", "detach")):
            count = flop_registry.get(func._overloadpacket)
            flop = count(*args, **(kwargs or {}), out_val=out) if count else 0
            float32 = flop > 0 and args[0].dtype == torch.float32
            self.micro_steps[-1].append(Operation(flop, total_bytes((args, kwargs, out)), float32))
        return out

    def _gradient_ready(self, parameter: Tensor) -> None:
        self.micro_steps[-1].append(GradientReady(total_bytes(parameter)))

    def pack(self, x: Tensor) -> Tensor:
        """Record a tensor that autograd keeps. Pack hook for `saved_tensors_hooks`."""
        storage = x.untyped_storage()
        if storage._cdata not in self._parameters:
            self._saved[storage._cdata] = storage.nbytes()
            self.peak_saved_bytes = max(self.peak_saved_bytes, sum(self._saved.values()))
        return x


def total_bytes(tensors: Any) -> int:
    """Return the bytes of all tensors in nested arguments or results."""
    return sum(x.numel() * x.element_size() for x in tree_leaves(tensors) if isinstance(x, Tensor))
