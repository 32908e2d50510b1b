"""The page of `biggan serve`: streamlit runs this file anew whenever a control is moved."""

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
from biggan.generation.export_reader import read_export
from biggan.generation.interpolation import interpolate, mix_classes
from biggan.generation.interpolation_spec import Over, Route
from biggan.generation.interpolation_spec import Path as Way
from biggan.generation.sample import generate_rows
from biggan.generation.trained_generator import TrainedGenerator
from biggan.models.networks import Generator
from biggan.pictures import grid

ROWS, COLUMNS = 3, 6
STRIP_STEPS = 8
MOST_TRUNCATION = 2.0
"""Two standard deviations and more are all but untruncated: 4.6% of values are beyond."""


@dataclass(frozen=True)
class Choice:
    """What the controls say."""

    first: int
    second: int
    share: float
    """Of the second class in the mixture, 0 to 1."""
    truncation: float
    seed: int


def page(folder: str) -> None:
    """The whole page."""
    st.set_page_config(page_title=f"biggan: {Path(folder).name}", layout="wide")
    source = opened(folder)
    st.title(Path(folder).name)
    controls, pictures = st.columns([1, 3], gap="large")
    with controls:
        choice = chosen(source)
        near = source.nearest_held(choice.truncation)
        held = "none" if near is None else near
        st.caption(f"{source.origin}, with its statistics of the nearest truncation: {held}")
    with pictures:
        generator = at_truncation(folder, near)
        show("Images", drawn(generator, choice), "images.png")
        show("From the first class to the second", strip(generator, choice), "strip.png")


@st.cache_resource
def opened(folder: str) -> TrainedGenerator:
    """The export, read once."""
    return read_export(Path(folder), this_device())


@st.cache_resource
def at_truncation(folder: str, truncation: float | None) -> Generator:
    """The generator with statistics for a truncation, made once."""
    return opened(folder).at(truncation)


def chosen(source: TrainedGenerator) -> Choice:
    """The controls; a generator without a shared class embedding cannot mix."""
    numbers = range(len(source.classes))
    first = st.selectbox("Class", numbers, format_func=source.classes.__getitem__)
    second, share = first, 0.0
    if source.generator.class_embedding is not None:
        after = min(1, len(source.classes) - 1)
        second = st.selectbox("Second class", numbers, index=after, format_func=source.classes.__getitem__)
        share = st.slider("Share of the second class", 0.0, 1.0, 0.0, 0.05)
    truncation = st.slider("Truncation: smaller is truer, larger more varied", 0.1, MOST_TRUNCATION, 0.7, 0.05)
    seed = st.number_input("Seed", min_value=0, value=0, step=1)
    return Choice(first, second, share, truncation, int(seed))


def drawn(generator: Generator, choice: Choice) -> NDArray[np.uint8]:
    """uint8 [ROWS, COLUMNS, R, R, 3] of the class, or of the mixture."""
    y: Tensor = torch.tensor([choice.first] * ROWS)
    if choice.share:
        mixture = {choice.first: 1 - choice.share, choice.second: choice.share}
        y = mix_classes(generator, [mixture] * ROWS)
    return generate_rows(generator, y, COLUMNS, choice.truncation, choice.seed, this_device())


def strip(generator: Generator, choice: Choice) -> NDArray[np.uint8]:
    """uint8 [1, STRIP_STEPS, R, R, 3] from one image to another, on the great circle."""
    over = Over.Z if choice.first == choice.second else Over.BOTH
    route = Route(over, Way.CIRCLE, STRIP_STEPS)
    pairs = [(choice.first, choice.second)]
    return interpolate(generator, route, pairs, 1, choice.truncation, choice.seed, this_device())


def show(title: str, rows: NDArray[np.uint8], name: str) -> None:
    """A picture, and a button to download it."""
    file = io.BytesIO()
    grid(rows, [""] * len(rows)).save(file, "png")
    st.subheader(title)
    st.image(file.getvalue(), width="stretch", output_format="PNG")
    st.download_button("Download", file.getvalue(), name, "image/png", key=name)


if __name__ == "__main__":
    page(sys.argv[1])
