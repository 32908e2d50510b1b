"""Exports a generator as an MLflow model, `mlflow/`, for `mlflow.pyfunc.load_model` and `mlflow models serve`."""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

import biggan
from biggan.errors import InputError
from biggan.generation.export_reader import GENERATOR, INFORMATION, read_information
from biggan.generation.sampler import Sampler
from biggan.generation.torch_export import check_agreement
from biggan.tracking import experiment_id, short_reason, tracking_uri

FOLDER = "mlflow"
MODEL = Path(__file__).with_name("mlflow_model.py")
REQUIREMENTS = ("mlflow", "numpy", "safetensors", "torch")
"""Packages that a server of the model installs. This package is not among them: the model contains its source."""


def write(folder: Path, sampler: Sampler) -> dict[str, Any]:
    """Write `mlflow/`, load it back and compare it with the generator.

    Returns its entry of `other_forms` in `generator.json`.
    """
    example = pd.DataFrame({"class": [sampler.classes[0]], "seed": [0], "truncation": [sampler.truncation or 1.0]})
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(biggan.__file__).parent
        code = shutil.copytree(package, Path(scratch) / "biggan", ignore=shutil.ignore_patterns("__pycache__"))
        mlflow.pyfunc.save_model(
            str(folder / FOLDER),
            python_model=str(MODEL),
            artifacts={"tensors": str(folder / GENERATOR), "information": str(folder / INFORMATION)},
            code_paths=[str(code)],
            signature=signature(sampler),
            input_example=example,
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        )
    loaded = mlflow.pyfunc.load_model(str(folder / FOLDER)).unwrap_python_model().sampler
    worst = check_agreement(sampler.at(None).network, loaded.network, "mlflow")
    return {"file": f"{FOLDER}/", "truncation": "any", "max_abs_difference": worst}


def signature(sampler: Sampler) -> ModelSignature:
    """Return the signature: input is a table with one row per image, output is images uint8 [rows, R, R, 3]."""
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "class"),
        ColSpec(DataType.long, "seed"),
        ColSpec(DataType.double, "truncation", required=False),
    ]
    images = TensorSpec(np.dtype(np.uint8), (-1, sampler.resolution, sampler.resolution, 3))
    return ModelSignature(inputs=Schema(columns), outputs=Schema([images]))


def register(export: Path, name: str, run_dir: Path, experiment: str) -> str:
    """Log an export's model to MLflow, register it as `name`, and return NAME/VERSION.

    MLflow is the server in use, or else a file beside `run_dir`. Raises InputError if it fails.
    """
    information = read_information(export)
    client = mlflow.MlflowClient(tracking_uri(run_dir))
    try:
        experiment_number = experiment_id(client, experiment, run_dir)
        mlflow.set_tracking_uri(client.tracking_uri)  # writes MLFLOW_TRACKING_URI, which tracking_uri reads
        with mlflow.start_run(experiment_id=experiment_number, run_name=f"export {export.name}") as run:
            mlflow.set_tags({"origin": information["origin"], "license": information["license"]})
            mlflow.log_artifacts(str(export / FOLDER), FOLDER)
            registered = mlflow.register_model(f"runs:/{run.info.run_id}/{FOLDER}", name)
    except Exception as error:  # a server, a database or a proxy can raise anything
        raise InputError(
            f"--register: {name}: {short_reason(error)}; {export} is complete, only the registration failed"
        ) from None
    return f"{name}/{registered.version}"
