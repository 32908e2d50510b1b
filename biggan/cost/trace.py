"""What one process does in a G iteration, recorded by running the real step on tensors without storage."""

from __future__ import annotations

import itertools
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
from biggan.cost.scaling import Collective, CollectiveName, Event, GradientReady, MicroStep, Operation
from biggan.distributed.engine import AdamSettings, DDPEngine
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.gan import Ema, Gan
from biggan.models.architecture import configured_architecture
from biggan.models.batchnorm import set_batchnorm_group
from biggan.startup import build
from biggan.training.step import update_discriminator, update_generator

ALONE = Process(rank=0, world_size=1, device=torch.device("cpu"), group=None)
COLLECTIVES: dict[str, CollectiveName] = {"all_gather_into_tensor": "all_gather", "all_reduce": "all_reduce"}


@dataclass(frozen=True)
class Trace:
    """Of one process and its share of a micro-batch."""

    steps: tuple[MicroStep, ...]
    """The G iteration: each network's micro-steps before the last, and the last. BatchNorm's collectives are those
    of processes that share statistics."""
    g_parameters: int
    d_parameters: int
    activation_bytes: int
    """What the larger of the D and G passes keeps for its backward pass, one micro-batch."""

    @property
    def flop(self) -> int:
        """Of the whole G iteration, this process."""
        return sum(e.flop * s.repeats for s in self.steps for e in s.events if isinstance(e, Operation))


def record(config: Config, images: int) -> Trace:
    """Record a G iteration of a process that has `images` of each micro-batch; on a GPU, so `auto` is bfloat16."""
    config = config.with_precision(bfloat16=True)
    t = config.training
    micro_steps = min(2, t.accumulation)  # the first and the last; those between are like the first
    with FakeTensorMode(), fake_group() as group, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        gan = _gan(config)
        set_batchnorm_group(gan.generator.module, group)
        recorder = Recorder([gan.generator.module, gan.discriminator.module])
        recipe = replace(build.recipe(config, ALONE), accumulation=micro_steps)
        batch = _batch(config, images)

        def latents() -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(micro_steps):
                recorder.begin()
                yield batch[1], batch[2]

        with recorder, torch.autograd.graph.saved_tensors_hooks(recorder.pack, lambda x: x):
            update_discriminator(gan, itertools.repeat((batch[0], batch[2])), latents(), recipe)
            update_generator(gan, latents(), recipe)
    recorded = [tuple(events) for events in recorder.segments]
    return Trace(
        _micro_steps(recorded[:micro_steps], recipe.d_steps, t.accumulation)
        + _micro_steps(recorded[micro_steps:], 1, t.accumulation),
        g_parameters=sum(p.numel() for p in gan.generator.module.parameters()),
        d_parameters=sum(p.numel() for p in gan.discriminator.module.parameters()),
        activation_bytes=recorder.most_saved,
    )


def _micro_steps(recorded: list[tuple[Event, ...]], updates: int, accumulation: int) -> tuple[MicroStep, ...]:
    """One network's recorded micro-steps, (the first and) the last, as often as a G iteration takes them."""
    first = [MicroStep(events, updates * (accumulation - 1), boundary=False) for events in recorded[:-1]]
    return (*first, MicroStep(recorded[-1], updates, boundary=True))


@contextmanager
def fake_group() -> Iterator[ProcessGroup]:
    """A process group of two whose collectives give tensors of the right shape and send nothing."""
    assert not dist.is_initialized(), "record before the processes join"
    # torch has the backend "fake", the only one that needs neither sockets nor partners, once fake_pg is imported from
    # torch.testing._internal, and from nowhere public.
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        yield cast(ProcessGroup, dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def _gan(config: Config) -> Gan:
    guard = FiniteGuard(ALONE.device)
    described = configured_architecture(config.model)
    G, D = described.generator(), described.discriminator()

    def engine(name: str, network: nn.Module) -> DDPEngine:
        adam = AdamSettings(lr=1e-4, betas=(0.0, 0.999), eps=1e-8, max_grad_norm=0)
        return DDPEngine(network, name=name, adam=adam, process=ALONE, guard=guard)

    return Gan(engine("G", G), engine("D", D), Ema(G, 0.0, 0))


def _batch(config: Config, n: int) -> tuple[Tensor, Tensor, Tensor]:
    c, r = config.model.image_channels, config.model.resolution
    return torch.empty(n, c, r, r), torch.empty(n, config.model.effective_z_dim), torch.zeros(n, dtype=torch.long)


class Recorder(TorchDispatchMode):
    """Writes down operations, collectives, finished gradients and what autograd keeps, in segments."""

    def __init__(self, networks: list[nn.Module]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.segments: list[list[Event]] = []
        self.most_saved = 0
        self._parameters = {p.untyped_storage()._cdata for n in networks for p in n.parameters()}
        self._saved: dict[int, int] = {}
        for parameter in itertools.chain(*(n.parameters() for n in networks)):
            parameter.register_post_accumulate_grad_hook(self._gradient_ready)

    def begin(self) -> None:
        """Begin another segment: a micro-step."""
        self.segments.append([])
        self._saved.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if func.namespace == "_c10d_functional":
            if name in COLLECTIVES:
                self.segments[-1].append(Collective(COLLECTIVES[name], size(args[0]), "batchnorm"))
        elif func.namespace == "aten" and not func.is_view and not name.startswith(("empty", "new_empty", "detach")):
            count = flop_registry.get(func._overloadpacket)
            flop = count(*args, **(kwargs or {}), out_val=out) if count else 0
            float32 = flop > 0 and args[0].dtype == torch.float32
            self.segments[-1].append(Operation(flop, size((args, kwargs, out)), float32))
        return out

    def _gradient_ready(self, parameter: Tensor) -> None:
        self.segments[-1].append(GradientReady(size(parameter)))

    def pack(self, x: Tensor) -> Tensor:
        """Note what autograd keeps; for `saved_tensors_hooks`."""
        storage = x.untyped_storage()
        if storage._cdata not in self._parameters:
            self._saved[storage._cdata] = storage.nbytes()
            self.most_saved = max(self.most_saved, sum(self._saved.values()))
        return x


def size(tensors: Any) -> int:
    """Bytes of every tensor in a nest of arguments or results."""
    return sum(x.numel() * x.element_size() for x in tree_leaves(tensors) if isinstance(x, Tensor))
