"""`generator.pt2`: the generator as a program of torch.export, for torch without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from biggan.generation.agreement import check_agreement
from biggan.generation.sampler import Sampler
from biggan.generation.source import truncation_key

FILE = "generator.pt2"


def example(sampler: Sampler) -> tuple[torch.Tensor, torch.Tensor]:
    """z and y of a batch of two: of one, torch.export would take the size for a constant."""
    return torch.zeros(2, sampler.z_dim), torch.zeros(2, dtype=torch.int64)


def batch_axis() -> dict[str, dict[int, torch.export.Dim]]:
    """Of both arguments the first axis may have any size."""
    batch = torch.export.Dim("batch", min=1)
    return {"z": {0: batch}, "y": {0: batch}}


def write(folder: Path, sampler: Sampler) -> dict[str, Any]:
    """Write it, and read it back to compare with the generator: (z [N, z_dim], y [N]) -> images, for any N."""
    with torch.no_grad():
        program = torch.export.export(sampler.network, example(sampler), dynamic_shapes=batch_axis())
    torch.export.save(program, folder / FILE)
    read = torch.export.load(folder / FILE).module()
    worst = check_agreement(sampler.network, read, "torch-export")
    return {"file": FILE, "truncation": truncation_key(sampler.truncation), "max_abs_difference": worst}
