"""`biggan parameters`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def parameters(
    configs: Annotated[list[Path], typer.Argument(help="Presets or other configs, as in configs/*.yaml.")],
) -> None:
    """How many parameters the networks of each config have, in one table."""
    from rich.console import Console
    from rich.table import Table

    from biggan.build import parameter_counts
    from biggan.preset import resolve

    table = Table()
    for column in ("config", "family", "px", "channels", "z", "attention G / D"):
        table.add_column(column)
    for column in ("G parameters", "D parameters"):
        table.add_column(column, justify="right")
    for config in configs:
        model = resolve(config).model
        widths = f"{model.channels}" + (f" / {model.d_channels}" if model.d_channels else "")
        attention = " / ".join(",".join(map(str, at)) or "-" for at in (model.g_attention, model.d_attention))
        z, counts = str(model.effective_z_dim), [f"{count:,}" for count in parameter_counts(model)]
        table.add_row(config.stem, model.family, str(model.resolution), widths, z, attention, *counts)
    # As wide as the table wants: at the terminal's width, or a pipe's 80 columns, Rich cuts names and numbers off.
    Console(width=10_000).print(table)
