"""Exports a generator to ONNX: `generator.onnx`, for other runtimes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from biggan.generation.sampler import Sampler
from biggan.generation.torch_export import check_agreement, dynamic_shapes, example_inputs
from biggan.generation.trained_generator import truncation_key

FILE = "generator.onnx"


def write(folder: Path, sampler: Sampler) -> dict[str, Any]:
    """Write `generator.onnx`: inputs z float32 [N, z_dim] and y int64 [N], output images [N, 3, R, R] in [-1, 1].

    N is any batch size. The file is run with onnxruntime and compared with the generator. Returns its entry of
    `other_forms` in `generator.json`.
    """
    with warnings.catch_warnings(action="ignore"), torch.no_grad():  # about the internals of torch's exporter
        program = torch.export.export(sampler.network, example_inputs(sampler), dynamic_shapes=dynamic_shapes())
        torch.onnx.export(
            program.run_decompositions(),  # into matrix products: ONNX's attention needs four axes, ours has three
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
