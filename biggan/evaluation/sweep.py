"""Table and figure of a truncation sweep: fidelity against variety (Brock et al. 2018, section 3.1 and figure 17)."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from rich.table import Column, Table

from biggan.evaluation.result import Result

HEADINGS = {
    "fid": "FID", "inception_score": "IS", "inception_score_std": "  ± over splits", "kid": "KID",
    "kid_std": "  ± over subsets", "precision": "precision", "recall": "recall", "density": "density",
    "coverage": "coverage", "precision_inside_classes": "precision inside classes",
    "recall_inside_classes": "recall inside classes", "accuracy": "accuracy",
    "accuracy_worst_class": "  of the worst class",
}  # fmt: skip
"""Metric -> its heading in tables and figures."""


def threshold(result: Result) -> str:
    """Return the truncation threshold as text, or `none`."""
    return "none" if result.protocol.truncation is None else f"{result.protocol.truncation:g}"


def table(results: Sequence[Result]) -> Table:
    """Return a table with a column for each result, and one for the real halves if they were measured."""
    halves = results[0].real_halves
    rendered = Table("truncation", *(Column(threshold(r), justify="right") for r in results))
    if halves:
        rendered.add_column("real halves", justify="right")
    for name, heading in HEADINGS.items():
        if name in results[0].metrics:
            columns = [result.metrics for result in results] + ([halves] if halves else [])
            rendered.add_row(heading, *(f"{metrics[name]:.4g}" if name in metrics else "" for metrics in columns))
    return rendered


def sweep_figure(results: Sequence[Result]) -> Image.Image:
    """Plot FID against IS, and recall against precision (of all images and inside classes), a point per threshold.

    Pairs of metrics that the results do not have are left out.
    """
    with matplotlib.rc_context({"font.size": 9}):
        pairs = [
            ("inception_score", "fid"),
            ("precision", "recall"),
            ("precision_inside_classes", "recall_inside_classes"),
        ]
        pairs = [pair for pair in pairs if pair[0] in results[0].metrics]
        figure = Figure(figsize=(5 * len(pairs), 4), layout="constrained")
        axes = figure.subplots(1, len(pairs), squeeze=False)[0]
        for ax, (x, y) in zip(axes, pairs, strict=True):
            _plot_curve(ax, results, x, y)
        protocol = results[0].protocol
        figure.suptitle(
            f"{protocol.features} features, {protocol.num_images:,} images, {protocol.statistics} statistics"
        )
        png = BytesIO()
        figure.savefig(png, dpi=150, format="png")
    return Image.open(png)


def _plot_curve(ax: Axes, results: Sequence[Result], x: str, y: str) -> None:
    ax.plot([r.metrics[x] for r in results], [r.metrics[y] for r in results], marker="o")
    for result in results:
        point = (result.metrics[x], result.metrics[y])
        ax.annotate(threshold(result), point, textcoords="offset points", xytext=(4, 4))
    ax.set_xlabel(HEADINGS[x])
    ax.set_ylabel(HEADINGS[y])
