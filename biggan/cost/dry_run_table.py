"""Tables of `biggan train CONFIG --dry-run`: computing, memory, traffic and time of one process."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from biggan.config import Config
from biggan.cost.estimate import Cost, Estimate

GIB = 2.0**30
MIB = 2.0**20
KINDS = {
    ("gradients", "all_reduce"): "gradients, all-reduce",
    ("parameters", "all_gather"): "updated parameters, all-gather",
    ("batchnorm", "all_gather"): "BatchNorm forward, all-gather",
    ("batchnorm", "all_reduce"): "BatchNorm backward, all-reduce",
    ("host flag", "all_reduce"): "stop flag, all-reduce",
}


def print_cost(console: Console, config: Config, world_size: int, estimate: Estimate, time_heading: str) -> None:
    """Print `estimate`. `time_heading` stands above the predicted seconds and names the machines they are for."""
    size = _table(f"one of {world_size} process{'es' if world_size > 1 else ''}", ["value"])
    images = estimate.real_images
    for label, value in (
        ("generator parameters", f"{estimate.g_parameters:,}"),
        ("discriminator parameters", f"{estimate.d_parameters:,}"),
        ("TFLOP per G iteration, all processes", f"{estimate.tflop_per_step:.3f}"),
        ("images per G iteration (real images for D)", f"{images:,}"),
    ):
        size.add_row(label, value)
    if estimate.batchnorm_layers:
        size.add_row("BatchNorm layers that share statistics", f"{estimate.batchnorm_layers}")
    console.print(size)
    # On one process there is nothing to distribute: all engines cost the same.
    costs = estimate.costs if world_size > 1 else estimate.costs[:1]
    names = [str(cost.engine) for cost in costs] if world_size > 1 else ["one process"]
    console.print(_memory(costs, names))
    if world_size > 1:
        console.print(_traffic(costs, names))
    console.print(time_heading, highlight=False, markup=False, soft_wrap=True)  # a table title would wrap
    console.print(_time(costs, names, config.training.batch_size))


def _table(title: str | None, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("quantity")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _memory(costs: tuple[Cost, ...], names: list[str]) -> Table:
    table = _table("memory of one process, GiB", names)
    for kind in ("weights", "gradients", "optimizer", "ema", "activations"):
        table.add_row(kind, *(f"{getattr(cost.memory, kind) / GIB:.2f}" for cost in costs))
    table.add_row("estimated memory", *(f"{cost.memory.total / GIB:.2f} GiB" for cost in costs))
    return table


def _traffic(costs: tuple[Cost, ...], names: list[str]) -> Table:
    table = _table("collectives of one process in a G iteration: number, MiB sent", names)
    by_kind = [{(t.cause, t.name): t for t in cost.traffic} for cost in costs]
    for kind, label in KINDS.items():
        if any(kind in rows for rows in by_kind):
            table.add_row(
                label,
                *(f"{r[kind].count:,}  {r[kind].sent_bytes / MIB:,.2f}" if kind in r else "-" for r in by_kind),
            )
    return table


def _time(costs: tuple[Cost, ...], names: list[str], batch_size: int) -> Table:
    table = _table(None, names)
    table.add_row("seconds per G iteration", *(f"{cost.seconds.total:.3g}" for cost in costs))
    table.add_row("images/s, all processes", *(f"{batch_size / cost.seconds.total:,.0f}" for cost in costs))
    for kind in ("compute", "gradients", "batchnorm", "host_flag", "straggler"):
        shares = (getattr(cost.seconds, kind) / cost.seconds.total for cost in costs)
        table.add_row(f"share of {kind.replace('_', ' ')}", *(f"{share:.1%}" for share in shares))
    return table
