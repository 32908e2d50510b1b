"""The generator as an MLflow model. MLflow runs this file when it loads the model ("models from code").

Nothing is pickled: `biggan.generation.mlflow_export`, which writes the model, only names this file.
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
    """Model with one image per row: `class` (a name, or a number as text), `seed`, `truncation` (none if left out)."""

    def load_context(self, context: Any) -> None:
        """Load the generator from the model's artifacts."""
        self.sampler = load_generator(Path(context.artifacts["tensors"]).parent)

    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> NDArray[np.uint8]:
        """Return images uint8 [rows, R, R, 3].

        Each is `load_generator(..., truncation).sample(class, seed=seed)` with the values of its row.
        """
        rows = model_input.reset_index(drop=True)
        truncations = rows["truncation"] if "truncation" in rows else pd.Series([None] * len(rows))
        images = np.zeros((len(rows), self.sampler.resolution, self.sampler.resolution, 3), np.uint8)
        for truncation in truncations.astype(float).unique():
            untruncated = np.isnan(truncation)
            group = rows[truncations.isna() if untruncated else truncations == truncation]
            sampler = self.sampler.at(None if untruncated else float(truncation))
            z = [draw_latents(range(1), sampler.network, sampler.truncation, int(seed)) for seed in group["seed"]]
            y = torch.tensor([sampler.class_number(name) for name in group["class"]])
            images[group.index] = sampler.images(torch.cat(z), y)
        return images


set_model(BigganModel())
