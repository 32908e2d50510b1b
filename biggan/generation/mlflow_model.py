"""The generator as MLflow sees it: MLflow runs this very file when it loads the model ("models from code").

So nothing is pickled, and `biggan.generation.mlflow_export`, which writes the model, only names this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray

from biggan.generation.sampler import load_generator
from biggan.generation.truncation import draw_latents


class BigganModel(PythonModel):
    """One image per row: `class` (a name, or a number as text), `seed`, and `truncation` (none if left out)."""

    def load_context(self, context: Any) -> None:
        """Read the export among the model's files."""
        self.sampler = load_generator(Path(context.artifacts["tensors"]).parent)

    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> NDArray[np.uint8]:
        """uint8 [rows, R, R, 3]: of each row the image `load_generator(..., truncation).sample(class, seed=seed)`."""
        rows = model_input.reset_index(drop=True)
        given = rows["truncation"] if "truncation" in rows else pd.Series([None] * len(rows))
        images = np.zeros((len(rows), self.sampler.resolution, self.sampler.resolution, 3), np.uint8)
        for truncation in given.astype(float).unique():
            untruncated = np.isnan(truncation)
            mine = rows[given.isna() if untruncated else given == truncation]
            sampler = self.sampler.at(None if untruncated else float(truncation))
            z = [draw_latents(range(1), sampler.network, sampler.truncation, int(seed)) for seed in mine["seed"]]
            y = torch.tensor([sampler.class_number(name) for name in mine["class"]])
            images[mine.index] = sampler.images(torch.cat(z), y)
        return images


set_model(BigganModel())
