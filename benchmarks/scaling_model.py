"""Calibrate the scaling model, check it on this machine, and draw its predictions for large clusters.

    python benchmarks/scaling_model.py calibrate FILE [--processes 2 | --links doctor.json]   for biggan train --dry-run
    python benchmarks/scaling_model.py check [--rounds 15]              predicted against measured: 1, 2, 4 processes
    python benchmarks/scaling_model.py draw                             plots and tables for 8 to 2,048 GPUs

docs/scaling.md explains the model. `calibrate` times a step on this machine, and the collectives too unless `--links`
has them. `check` predicts from one process's steps and from collectives alone, and writes docs/scaling-check.md. It
ends with exit code 1 if a prediction is off by more than 15%. `draw` measures nothing, and writes docs/scaling-*.png
and docs/scaling-predictions.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling_measure import BATCHES, check_config
from scaling_plots import draw, table

from biggan.cost.calibration import cluster_from
from biggan.cost.engine_cost import ENGINES, with_collectives
from biggan.cost.scaling import Cluster, MicroStep, Seconds, predict
from biggan.cost.trace import record

DOCS = Path(__file__).parents[1] / "docs"
WORKER = Path(__file__).with_name("scaling_measure.py")
CORES = len(os.sched_getaffinity(0))
DDP = ENGINES[0]
TOLERANCE = 0.15
"""Largest accepted error of a prediction, relative to the measurement."""


def measure(processes: int, rounds: int) -> dict[str, Any]:
    """Run scaling_measure.py under torchrun, one thread per process. Return its measurements."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*torchrun, str(WORKER), str(out), str(rounds)], check=True, env=environment)
        measured: dict[str, Any] = json.loads(out.read_text())
    kept = min(len(s) for kind in ("alone", "together") for sizes in measured[kind].values() for s in sizes.values())
    if kept < 3:
        sys.exit(
            f"--rounds: only {kept} of {rounds} steps were undisturbed by other programs; stop them, or raise --rounds"
        )
    return measured


def deviation(seconds: list[float]) -> float:
    """Return the standard deviation of one second of work, from the median absolute deviation: robust to pauses."""
    median = statistics.median(seconds)
    return 1.4826 * statistics.median(abs(s - median) for s in seconds) / math.sqrt(median)


def links(measured: dict[str, Any], processes: int) -> dict[str, Any]:
    """Return the collectives of `processes` in the form of `biggan doctor --json`: medians over the rounds."""
    return {
        "world_size": processes,
        "hosts": ["here"],
        "backend": "gloo" if measured["device"] == "cpu" else "nccl",
        "collectives": [
            {"operation": name, "bytes": int(size), "seconds": statistics.median(seconds)}
            for name, sizes in measured["collectives"][str(processes)].items()
            for size, seconds in sizes.items()
        ],
    }


def computing(measured: dict[str, Any]) -> dict[str, Any]:
    """Return noise, launch time and cores of one process in the form of `--calibration`, without its speed."""
    # Short pieces of work, per round: changes from step to step are common to all processes of this machine.
    noise = {"noise": statistics.median(map(deviation, measured["work"]))}
    if measured["device"] == "cpu":  # no separate launches (the step includes them); processes share cores
        return noise | {"launch_seconds": 0.0, "cores": CORES}
    return noise


def scaled(cluster: Cluster, steps: tuple[MicroStep, ...], seconds: float) -> Cluster:
    """Return `cluster` with the compute scale at which a single process takes `seconds` for `steps`."""
    modelled = predict(with_collectives(steps, DDP, 1), cluster, 1, 1).total
    return replace(cluster, compute_scale=seconds / modelled)


def predicted(measured: dict[str, Any], size: str, processes: int) -> tuple[Cluster, Seconds]:
    """Return the fitted cluster and the predicted seconds, from one process's step and from collectives."""
    images = BATCHES[size] // processes
    steps = record(check_config(size), images).steps
    cluster = cluster_from(links(measured, max(2, processes)) | computing(measured))
    cluster = scaled(cluster, steps, statistics.median(measured["alone"][size][str(images)]))
    return cluster, predict(with_collectives(steps, DDP, processes), cluster, processes, processes)


def row(measured: dict[str, Any], size: str, processes: str) -> tuple[float, list[str]]:
    """Return the relative error of one prediction, and its row in the table."""
    cluster, seconds = predicted(measured, size, int(processes))
    taken = measured["together"][size][processes]
    low, median, high = statistics.quantiles(taken, n=4)
    hop, error = cluster.transports[0].within, seconds.total / median - 1
    parts = (seconds.compute, seconds.gradients, seconds.batchnorm, seconds.host_flag, seconds.straggler)
    return error, [
        size,
        processes,
        f"{seconds.total:.3f}",
        f"{median:.3f} ({low:.3f} to {high:.3f})",
        f"{error:+.1%}",
        *(f"{s:.3f}" for s in parts),
        f"{hop.seconds * 1e6:.0f} us, {1e-9 / hop.seconds_per_byte:.2f} GB/s" if processes != "1" else "",
        str(len(taken)),
    ]


def check(rounds: int) -> None:
    """Print and write the table of predicted and measured step times. Exit with 1 if a prediction is too far off."""
    measured = measure(4, rounds)
    causes = ["compute", "gradients", "BatchNorm", "flag", "wait"]
    head = ["network", "processes", "predicted", "measured", "error", *causes, "hop", "steps"]
    cases = [(size, processes) for size, counts in measured["together"].items() for processes in counts]
    errors, rows = zip(*(row(measured, *case) for case in cases), strict=True)
    text = (
        f"Generated by `benchmarks/scaling_model.py check --rounds {rounds}` on {CORES} cores; load average "
        f"{os.getloadavg()[0]:.1f} at the end. Times are seconds of a G iteration. Measured times are the median "
        f"(quartiles) of the steps undisturbed by other programs.\n\n{table(head, list(rows))}"
    )
    sys.stdout.write(text)
    (DOCS / "scaling-check.md").write_text(text)
    inaccurate = [
        f"{size} on {processes}: {error:+.1%}"
        for (size, processes), error in zip(cases, errors, strict=True)
        if abs(error) > TOLERANCE
    ]
    if inaccurate:
        sys.exit(f"predictions off by more than {TOLERANCE:.0%}: {'; '.join(inaccurate)}")


def calibrate(file: Path, doctor_json: Path | None, processes: int, rounds: int) -> None:
    """Write a calibration file: a step of this machine, and the collectives of `doctor_json` or of this machine."""
    measured = measure(processes if doctor_json is None else 1, rounds)
    collectives = links(measured, processes) if doctor_json is None else json.loads(doctor_json.read_text())
    contents = collectives | computing(measured)
    size, times = next(iter(measured["alone"].items()))
    images, seconds = next(iter(times.items()))
    steps = record(check_config(size), int(images)).steps
    cluster = scaled(cluster_from(contents), steps, statistics.median(seconds))
    file.write_text(json.dumps(contents | {"compute_scale": cluster.compute_scale}, indent=1) + "\n")


def main() -> None:
    """Calibrate, check or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    calibrating = commands.add_parser("calibrate")
    calibrating.add_argument("file", type=Path)
    collectives = calibrating.add_mutually_exclusive_group()
    collectives.add_argument("--processes", type=int, default=2, choices=(2, 4))
    collectives.add_argument("--links", type=Path, help="output of biggan doctor --json")
    for command in (calibrating, commands.add_parser("check")):
        command.add_argument("--rounds", type=int, default=15)
    commands.add_parser("draw")
    arguments = parser.parse_args()
    if arguments.command == "calibrate":
        calibrate(arguments.file, arguments.links, arguments.processes, arguments.rounds)
    elif arguments.command == "check":
        check(arguments.rounds)
    else:
        draw(DOCS)


if __name__ == "__main__":
    main()
