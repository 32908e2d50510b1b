"""Bytes one process holds for a G iteration, by engine and ZeRO stage."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from biggan.cost.communication import EngineSettings, partition_elements


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, at the moment it holds most. The allocator and workspaces come on top."""

    weights: int
    gradients: int
    """With the buckets or buffers they are reduced in."""
    optimizer: int
    """Adam's two moments and, under ZeRO, the float32 master copy of the process's partition."""
    ema: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(astuple(self))


def memory(
    g_parameters: int, d_parameters: int, activation_bytes: int, engine: EngineSettings, processes: int
) -> Memory:
    """Memory of both networks under one engine; weights are float32 under either precision.

    One process alone has no engine to speak of, and drops the gradients of one network before it makes the other's.
    DDP keeps the gradients of both in its buckets for good. ZeRO keeps parameters whole in one flat buffer, and
    master copy and moments of a partition; gradients of the network whose turn it is pass through a buffer of
    `zero_bucket_elements` (all of it allocated) into the partition, and once more into the flat copy that Adam
    reads. Before that, stage 1 holds all gradients, stage 2 only those in the buffer.
    """
    networks = (g_parameters, d_parameters)
    partitions = [partition_elements(p, processes) for p in networks]
    largest, partition = max(networks), max(partitions)
    if processes == 1:
        weights, gradients, optimizer = sum(networks), largest, 2 * sum(networks)
    elif engine.name == "ddp":
        weights, gradients, optimizer = sum(networks), sum(networks), 2 * sum(networks)
    else:
        weights, optimizer = sum(partitions) * processes, 3 * sum(partitions)
        gradients = engine.zero_bucket_elements + partition + max(partition, largest if engine.zero_stage == 1 else 0)
    return Memory(4 * weights, 4 * gradients, 4 * optimizer, 4 * g_parameters, activation_bytes)
