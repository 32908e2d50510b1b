"""`generator.onnx`: the generator for other runtimes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from biggan.generation.sampler import Sampler
from biggan.generation.torch_export import batch_axis, check_agreement, example
from biggan.generation.trained_generator import truncation_key

FILE = "generator.onnx"


def write(folder: Path, sampler: Sampler) -> dict[str, Any]:
    """Write it, and run it with onnxruntime to compare: inputs `z` [N, z_dim] float32 and `y` [N] int64, any N; output
    `images` [N, 3, R, R] in [-1, 1]."""
    with warnings.catch_warnings(action="ignore"), torch.no_grad():  # of what torch's exporter does by itself
        program = torch.export.export(sampler.network, example(sampler), dynamic_shapes=batch_axis())
        torch.onnx.export(
            program.run_decompositions(),  # ONNX's attention takes four axes, ours has three: matrix products, then
            f=folder / FILE,
            input_names=["z", "y"],
            output_names=["images"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])

    def run(z: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["images"], {"z": z.numpy(), "y": y.numpy()})[0])

    worst = check_agreement(sampler.network, run, "onnx")
    return {"file": FILE, "truncation": truncation_key(sampler.truncation), "max_abs_difference": worst}
