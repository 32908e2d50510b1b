"""Open the log of a run on rank 0: console, metrics, checkpoint writer, MLflow."""

from __future__ import annotations

from functools import partial

from rich.console import Console

from biggan.config import Config
from biggan.config.preset import flat
from biggan.errors import printable_line
from biggan.runs import lineage, run_folder
from biggan.runs.checkpoint_writer import Writer
from biggan.runs.metrics import Metrics
from biggan.startup import build
from biggan.tracking import Tracker
from biggan.training.run_logger import RunLogger


def open_logger(config: Config, step: int, notes: list[str]) -> RunLogger:
    """Open rank 0's log of a run that continues after G step `step`, and print `notes`."""
    console = Console(stderr=True, emoji=False)

    def print_line(message: str) -> None:
        console.print(printable_line(message), highlight=False, markup=False, soft_wrap=True)

    for note in notes:
        print_line(note)
    folder = config.run.dir
    started = partial(run_folder.record_first_checkpoint, folder)
    tracker = None
    if config.tracking.mlflow:
        tracker = Tracker(folder, config.tracking.experiment, print_line, lineage.tags(folder))
        tracker.log_parameters(flat(config))
        tracker.log_text(config.to_yaml(), run_folder.CONFIG)
    return RunLogger(
        folder,
        console,
        Metrics(folder / "metrics.jsonl", step),
        Writer(run_folder.checkpoints(folder), build.ring(config), print_line, started),
        tracker,
        config.training.steps,
        config.training.log_every_steps,
    )
