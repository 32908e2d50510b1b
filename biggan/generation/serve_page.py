"""The page of `biggan serve`. Streamlit runs this file again whenever a control changes."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan.distributed.process import this_device
from biggan.generation.arguments import InterpolatedInput, Interpolation, InterpolationPath
from biggan.generation.export_reader import read_export
from biggan.generation.interpolation import interpolate, mix_classes
from biggan.generation.sample import generate_rows
from biggan.generation.trained_generator import TrainedGenerator, truncation_key
from biggan.image_grid import grid
from biggan.models.networks import Generator

ROWS, COLUMNS = 3, 6
STRIP_STEPS = 8
MAX_TRUNCATION = 2.0
"""Upper end of the slider. Beyond two standard deviations lie 4.6% of values: more is nearly untruncated."""


@dataclass(frozen=True)
class Controls:
    """Values of the page's controls."""

    first: int
    second: int
    share: float
    """Weight of the second class in the mixture, 0 to 1."""
    truncation: float
    seed: int


def page(folder: str) -> None:
    """Show the page for the export in `folder`."""
    st.set_page_config(page_title=f"biggan: {Path(folder).name}", layout="wide")
    trained = load_export(folder)
    st.title(Path(folder).name)
    left, right = st.columns([1, 3], gap="large")
    with left:
        controls = read_controls(trained)
        nearest = trained.nearest_stored_truncation(controls.truncation)
        st.caption(f"{trained.origin}, statistics of the nearest stored truncation: {truncation_key(nearest)}")
    with right:
        generator = at_truncation(folder, nearest)
        show("Images", sample_images(generator, controls), "images.png")
        show("From the first class to the second", interpolation_strip(generator, controls), "strip.png")


@st.cache_resource
def load_export(folder: str) -> TrainedGenerator:
    """Read the export, once per process."""
    return read_export(Path(folder), this_device())


@st.cache_resource
def at_truncation(folder: str, truncation: float | None) -> Generator:
    """Return the generator with statistics for a truncation, built once per process."""
    return load_export(folder).at(truncation)


def read_controls(trained: TrainedGenerator) -> Controls:
    """Show the controls and return their values. Mixing needs a shared class embedding."""
    numbers = range(len(trained.classes))
    first = st.selectbox("Class", numbers, format_func=trained.classes.__getitem__)
    second, share = first, 0.0
    if trained.generator.class_embedding is not None:
        after = min(1, len(trained.classes) - 1)
        second = st.selectbox("Second class", numbers, index=after, format_func=trained.classes.__getitem__)
        share = st.slider("Share of the second class", 0.0, 1.0, 0.0, 0.05)
    truncation = st.slider("Truncation: lower for fidelity, higher for variety", 0.1, MAX_TRUNCATION, 0.7, 0.05)
    seed = st.number_input("Seed", min_value=0, value=0, step=1)
    return Controls(first, second, share, truncation, int(seed))


def sample_images(generator: Generator, controls: Controls) -> NDArray[np.uint8]:
    """Return images uint8 [ROWS, COLUMNS, R, R, 3] of the class, or of the mixture of both classes."""
    y: Tensor = torch.tensor([controls.first] * ROWS)
    if controls.share:
        mixture = {controls.first: 1 - controls.share, controls.second: controls.share}
        y = mix_classes(generator, [mixture] * ROWS)
    return generate_rows(generator, y, COLUMNS, controls.truncation, controls.seed, this_device())


def interpolation_strip(generator: Generator, controls: Controls) -> NDArray[np.uint8]:
    """Return images uint8 [1, STRIP_STEPS, R, R, 3] from one image to another, by spherical interpolation."""
    over = InterpolatedInput.Z if controls.first == controls.second else InterpolatedInput.BOTH
    interpolation = Interpolation(over, InterpolationPath.CIRCLE, STRIP_STEPS)
    pairs = [(controls.first, controls.second)]
    return interpolate(generator, interpolation, pairs, 1, controls.truncation, controls.seed, this_device())


def show(title: str, rows: NDArray[np.uint8], name: str) -> None:
    """Show a grid of images, and a button to download it."""
    file = io.BytesIO()
    grid(rows, [""] * len(rows)).save(file, "png")
    st.subheader(title)
    st.image(file.getvalue(), width="stretch", output_format="PNG")
    st.download_button("Download", file.getvalue(), name, "image/png", key=name)


if __name__ == "__main__":
    page(sys.argv[1])
