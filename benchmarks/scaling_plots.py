"""Plot and tabulate the scaling model's predictions for BigGAN-128, 256 and 512 on 8 to 2,048 GPUs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from biggan.config.preset import resolve
from biggan.cost.engine_cost import ENGINES, EngineSettings, memory, with_collectives
from biggan.cost.scaling import ASSUMED, Cluster, Collective, Event, MicroStep, Operation, Seconds, predict
from biggan.cost.trace import Trace, record

CONFIGS = Path(__file__).parents[1] / "configs"
RESOLUTIONS = (128, 256, 512)
GPUS = tuple(2**k for k in range(3, 12))
BATCHES = (2048, 4096, 8192)
GPU_MEMORY = 72 * 2**30
"""Bytes of an 80 GB GPU that a step may use."""
DDP = ENGINES[0]
DEEPSPEED_BUCKET = 500_000_000
"""Elements of a ZeRO bucket by DeepSpeed's default; biggan uses 25 MiB."""
CAUSES = {
    "images": "#4477aa",
    "the same on every process": "#88ccee",
    "launching": "#ccbb44",
    "gradients": "#ee6677",
    "BatchNorm": "#aa3377",
    "stop flag": "#228833",
    "stragglers": "#999999",
}


@cache
def traces(resolution: int, accumulation: int) -> tuple[Trace, Trace]:
    """Record the preset's G iteration with 4 and with 8 images per process."""
    config = resolve(CONFIGS / f"imagenet{resolution}.yaml", [f"training.accumulation={accumulation}"])
    return record(config, 4), record(config, 8)


def at(resolution: int, images: float, accumulation: int) -> Trace:
    """Return the trace for any micro-batch: work and saved bytes of every operation are linear in the images."""
    four, eight = traces(resolution, min(2, accumulation))  # all micro-steps but the last are equal

    def line(a: float, b: float) -> int:
        return max(0, round(a + (b - a) * (images - 4) / 4))

    def event(a: Event, b: Event) -> Event:
        if isinstance(a, Operation) and isinstance(b, Operation):
            return replace(a, flop=line(a.flop, b.flop), bytes=line(a.bytes, b.bytes))
        assert a == b
        return a

    steps = []
    for a, b in zip(four.steps, eight.steps, strict=True):
        repeats = a.repeats if a.boundary else a.repeats * (accumulation - 1)
        steps.append(MicroStep(tuple(map(event, a.events, b.events)), repeats, a.boundary))
    kept = line(four.activation_bytes, eight.activation_bytes)
    return replace(four, steps=tuple(steps), activation_bytes=kept)


@dataclass(frozen=True)
class Case:
    """One prediction."""

    accumulation: int
    seconds: Seconds
    parts: dict[str, float]
    """Parts of `seconds.total`, by CAUSES."""


@cache
def case(
    resolution: int,
    gpus: int,
    batch: int,
    engine: EngineSettings = DDP,
    group: int = 0,
    cluster: Cluster = ASSUMED,
    more: int = 1,
    reduced_moments: bool = False,
) -> Case:
    """Predict with the smallest accumulation (times `more`) that fits into the GPU's memory."""
    accumulation = 1
    while not fits(resolution, gpus, batch, engine, accumulation):
        accumulation *= 2
    accumulation = min(accumulation * more, batch // gpus)

    def run(images: float, machine: Cluster) -> Seconds:
        steps = at(resolution, images, accumulation).steps
        steps = tuple(map(by_all_reduces, steps)) if reduced_moments else steps
        return predict(with_collectives(steps, engine, gpus), machine, gpus, min(group or gpus, gpus))

    images = batch / gpus / accumulation
    seconds, free = run(images, cluster), replace(cluster, launch_seconds=0.0)
    device, fixed = run(images, free).compute, run(0, free).compute
    parts = (device - fixed, fixed, seconds.compute - device, seconds.gradients, seconds.batchnorm)
    parts += (seconds.host_flag, seconds.straggler)
    return Case(accumulation, seconds, dict(zip(CAUSES, parts, strict=True)))


def by_all_reduces(step: MicroStep) -> MicroStep:
    """Replace BatchNorm's all-gathers by two all-reduces: of means, then of squared deviations."""
    events: list[Event] = []
    for event in step.events:
        if isinstance(event, Collective) and event.name == "all_gather":
            events += [replace(event, name="all_reduce", bytes=event.bytes // 2)] * 2
        else:
            events.append(event)
    return replace(step, events=tuple(events))


def fits(resolution: int, gpus: int, batch: int, engine: EngineSettings, accumulation: int) -> bool:
    """Return True if a step uses at most GPU_MEMORY."""
    trace = at(resolution, batch / gpus / accumulation, accumulation)
    held = memory(trace.g_parameters, trace.d_parameters, trace.activation_bytes, engine, gpus)
    return held.total <= GPU_MEMORY


def rate(resolution: int, gpus: int, batch: int) -> float:
    """Return the images per second of all GPUs."""
    return batch / case(resolution, gpus, batch).seconds.total


def plot_throughput(file: Path) -> None:
    """Plot images per second, and efficiency relative to 8 GPUs at the same batch."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.2), sharex=True, layout="constrained")
    for column, resolution in enumerate(RESOLUTIONS):
        above, below = axes[:, column]
        first = rate(resolution, GPUS[0], BATCHES[0])
        above.plot(GPUS, [first * n / GPUS[0] for n in GPUS], "k:", label="linear scaling from 8 GPUs")
        for batch, colour in zip(BATCHES, ("#4477aa", "#228833", "#ee6677"), strict=True):
            rates = [rate(resolution, n, batch) for n in GPUS]
            above.plot(GPUS, rates, "o-", color=colour, label=f"batch {batch:,}")
            below.plot(GPUS, [r / rates[0] * GPUS[0] / n for r, n in zip(rates, GPUS, strict=True)], "o-", color=colour)
        above.set(title=f"BigGAN-{resolution}", yscale="log")
        below.set(xlabel="GPUs", ylim=(0, 1.05))
        ticks(below)
        for axis in (above, below):
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("images/s")
    axes[0, 0].legend(frameon=False)
    axes[1, 0].set_ylabel("efficiency relative to 8 GPUs")
    save(figure, file)


def plot_shares(file: Path) -> None:
    """Plot the time of a G iteration by cause, batch 2,048."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), sharey=True, layout="constrained")
    for axis, resolution in zip(axes, RESOLUTIONS, strict=True):
        floor = [0.0] * len(GPUS)
        for cause, colour in CAUSES.items():
            cases = [case(resolution, n, BATCHES[0]) for n in GPUS]
            shares = [100 * c.parts[cause] / c.seconds.total for c in cases]
            axis.bar(range(len(GPUS)), shares, bottom=floor, color=colour, width=0.9, label=cause)
            floor = [a + b for a, b in zip(floor, shares, strict=True)]
        axis.set(title=f"BigGAN-{resolution}, batch 2,048", xlabel="GPUs", ylim=(0, 100))
        axis.set_xticks(range(len(GPUS)), [f"{n:,}" for n in GPUS], rotation=45)
    axes[0].set_ylabel("% of a G iteration")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False)
    save(figure, file)


GRAPHS = replace(ASSUMED, launch_seconds=0.5e-6)
QUIET = replace(ASSUMED, noise=0.0)
NO_FLAG = replace(ASSUMED, host_hop_seconds=0.0)
REMEDIES: dict[str, Callable[[int, int], float]] = {
    "unchanged": lambda r, n: case(r, n, 2048).seconds.total,
    "BatchNorm groups of 64": lambda r, n: case(r, n, 2048, group=64).seconds.total,
    "BatchNorm groups of 8": lambda r, n: case(r, n, 2048, group=8).seconds.total,
    "BatchNorm by all-reduces (not implemented)": lambda r, n: case(r, n, 2048, reduced_moments=True).seconds.total,
    "no stop flag (not implemented)": lambda r, n: case(r, n, 2048, cluster=NO_FLAG).seconds.total,
    "groups of 64, no stop flag": lambda r, n: case(r, n, 2048, group=64, cluster=NO_FLAG).seconds.total,
    "no stragglers": lambda r, n: case(r, n, 2048, cluster=QUIET).seconds.total,
    "groups of 64, a tenth of the launch time": lambda r, n: case(r, n, 2048, group=64, cluster=GRAPHS).seconds.total,
    "ZeRO 2": lambda r, n: case(r, n, 2048, engine=ENGINES[2]).seconds.total,
    "batch 8,192, per 2,048 images": lambda r, n: case(r, n, 8192).seconds.total / 4,
    "twice the accumulation": lambda r, n: case(r, n, 2048, more=2).seconds.total if n < 2048 else math.nan,
}
"""Seconds of G iterations per 2,048 images; NaN where a process has one image."""


def plot_remedies(file: Path) -> None:
    """Plot the relative time with each remedy, batch 2,048."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.8), sharex=True, sharey=True, layout="constrained")
    colours = mpl.colormaps["tab10"]
    for axis, resolution in zip(axes, RESOLUTIONS, strict=True):
        for k, (name, seconds) in enumerate(REMEDIES.items()):
            ratio = [seconds(resolution, n) / REMEDIES["unchanged"](resolution, n) for n in GPUS]
            axis.plot(GPUS, ratio, marker=".", label=name, color="black" if k == 0 else colours(k - 1), lw=1.5)
        axis.set(title=f"BigGAN-{resolution}, batch 2,048", xlabel="GPUs", ylim=(0, 1.8))
        ticks(axis)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("time for 2,048 images, relative")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save(figure, file)


def ticks(axis: Axes) -> None:
    """Set the x axis to GPUs in powers of two."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(GPUS, [f"{n:,}" for n in GPUS], rotation=45)


def save(figure: plt.Figure, file: Path) -> None:
    """Write and close a figure."""
    figure.savefig(file, dpi=110)
    plt.close(figure)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def iterations(resolution: int) -> str:
    """Return the table of throughput and of time by cause, batch 2,048."""
    rows = []
    for gpus in GPUS:
        c = case(resolution, gpus, 2048)
        total = c.seconds.total
        efficiency = rate(resolution, gpus, 2048) / rate(resolution, 8, 2048) * 8 / gpus
        rows.append(
            [f"{gpus:,}", str(c.accumulation), f"{total:.3f}", f"{2048 / total:,.0f}", f"{efficiency:.0%}"]
            + [f"{share / total:.0%}" for share in c.parts.values()]
        )
    head = ["GPUs", "accumulation", "s per iteration", "images/s", "efficiency", *CAUSES]
    return f"## BigGAN-{resolution}, batch 2,048, DDP, BatchNorm over all processes\n\n{table(head, rows)}"


def remedies(resolution: int) -> str:
    """Return the table of times with each remedy."""
    rows = [
        [name, *(f"{f(resolution, n):.3f}".replace("nan", "-") for n in (64, 256, 1024, 2048))]
        for name, f in REMEDIES.items()
    ]
    head = ["remedy", "64 GPUs", "256", "1,024", "2,048"]
    return f"## BigGAN-{resolution}, seconds per 2,048 images\n\n{table(head, rows)}"


def waiting() -> str:
    """Return the table of straggler waits for other values of the noise."""
    rows = []
    for noise in (0.0, 1e-3, 2e-3, 4e-3, 8e-3):
        noisy = replace(ASSUMED, noise=noise)
        shares = [case(128, n, 2048, cluster=noisy) for n in (64, 256, 1024, 2048)]
        rows.append([f"{1e3 * noise:.0f}", *(f"{c.seconds.straggler / c.seconds.total:.0%}" for c in shares)])
    title = "## BigGAN-128, batch 2,048: fraction of time lost to stragglers, by the noise of one process"
    return f"{title}\n\n{table(['ms per second', '64 GPUs', '256', '1,024', '2,048'], rows)}"


def memories() -> str:
    """Return the table of memory by engine, also with DeepSpeed's default buckets."""
    rows = []
    for resolution in RESOLUTIONS:
        trace = at(resolution, 8, 1)
        for engine in (*ENGINES, *(replace(e, zero_bucket_elements=DEEPSPEED_BUCKET) for e in ENGINES[1:])):
            m = memory(trace.g_parameters, trace.d_parameters, trace.activation_bytes, engine, 256)
            name = f"{engine}" if engine in ENGINES else f"{engine}, buckets of {DEEPSPEED_BUCKET:.0e} elements"
            kinds = (m.weights, m.gradients, m.optimizer, m.ema, m.activations, m.total)
            rows.append([str(resolution), name, *(f"{b / 2**30:.2f}" for b in kinds)])
    head = ["px", "engine", "weights", "gradients", "optimizer", "EMA", "activations", "total"]
    return f"## Memory, GiB, 8 images on each of 256 GPUs\n\n{table(head, rows)}"


def tables() -> str:
    """Return all tables of docs/scaling-predictions.md."""
    first = "Generated by `benchmarks/scaling_model.py draw`: predictions on an assumed cluster, nothing measured.\n"
    parts = [first, *map(iterations, RESOLUTIONS), *map(remedies, RESOLUTIONS), waiting(), memories()]
    return "\n".join(parts)


def draw(folder: Path) -> None:
    """Write the three plots and the tables."""
    mpl.use("Agg")
    plot_throughput(folder / "scaling-throughput.png")
    plot_shares(folder / "scaling-shares.png")
    plot_remedies(folder / "scaling-remedies.png")
    (folder / "scaling-predictions.md").write_text(tables())
