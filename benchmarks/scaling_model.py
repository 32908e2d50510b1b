"""The scaling model: calibrated here, checked here, and drawn for clusters we do not have. docs/scaling.md explains.

    python benchmarks/scaling_model.py calibrate FILE [--processes 2 | --links doctor.json]   for biggan train --dry-run
    python benchmarks/scaling_model.py check [--rounds 15]              predicted against measured: 1, 2, 4 processes
    python benchmarks/scaling_model.py draw                             plots and tables for 8 to 2,048 GPUs

`calibrate` times a step here, and the collectives too unless `biggan doctor --json` has. `check` predicts from one
process's steps and from collectives alone, and writes docs/scaling-check.md; it ends with exit code 1 if a prediction
is off by more than 15%. `draw` measures nothing, and writes docs/scaling-*.png and docs/scaling-predictions.md.
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
"""Of a prediction, relative to what was measured."""


def measure(processes: int, rounds: int) -> dict[str, Any]:
    """What scaling_measure.py measures under torchrun, one thread a process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*torchrun, str(WORKER), str(out), str(rounds)], check=True, env=environment)
        measured: dict[str, Any] = json.loads(out.read_text())
    kept = min(len(s) for kind in ("alone", "together") for sizes in measured[kind].values() for s in sizes.values())
    if kept < 3:
        sys.exit(
            f"other programs took the cores: {kept} of {rounds} steps were left alone; stop them, or raise --rounds"
        )
    return measured


def deviation(seconds: list[float]) -> float:
    """Standard deviation of a second's work, from the median absolute deviation of `seconds`: robust to pauses."""
    middle = statistics.median(seconds)
    return 1.4826 * statistics.median(abs(s - middle) for s in seconds) / math.sqrt(middle)


def links(measured: dict[str, Any], processes: int) -> dict[str, Any]:
    """The collectives of `processes`, as `biggan doctor --json` writes them: medians over the rounds."""
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
    """What one process is like, as `--calibration` reads it; how fast it computes is `scaled`'s to say."""
    # Of short pieces, a round at a time: what changes from step to step, all processes of this machine share.
    noise = {"noise": statistics.median(map(deviation, measured["work"]))}
    if measured["device"] == "cpu":  # it launches nothing (that is in the step), and its processes share cores
        return noise | {"launch_seconds": 0.0, "cores": CORES}
    return noise


def scaled(cluster: Cluster, steps: tuple[MicroStep, ...], seconds: float) -> Cluster:
    """`cluster` whose single process takes `seconds` for `steps`."""
    modelled = predict(with_collectives(steps, DDP, 1), cluster, 1, 1).total
    return replace(cluster, compute_scale=seconds / modelled)


def predicted(measured: dict[str, Any], size: str, processes: int) -> tuple[Cluster, Seconds]:
    """The fitted cluster, and seconds of a G iteration, from one process's step on its share and from collectives."""
    share = BATCHES[size] // processes
    steps = record(check_config(size), share).steps
    cluster = cluster_from(links(measured, max(2, processes)) | computing(measured))
    cluster = scaled(cluster, steps, statistics.median(measured["alone"][size][str(share)]))
    return cluster, predict(with_collectives(steps, DDP, processes), cluster, processes, processes)


def row(measured: dict[str, Any], size: str, processes: str) -> tuple[float, list[str]]:
    """The error of one prediction, relative, and its line in the table."""
    cluster, seconds = predicted(measured, size, int(processes))
    taken = measured["together"][size][processes]
    low, middle, high = statistics.quantiles(taken, n=4)
    hop, error = cluster.transports[0].within, seconds.total / middle - 1
    parts = (seconds.compute, seconds.gradients, seconds.batchnorm, seconds.host_flag, seconds.straggler)
    return error, [
        size,
        processes,
        f"{seconds.total:.3f}",
        f"{middle:.3f} ({low:.3f} to {high:.3f})",
        f"{error:+.1%}",
        *(f"{s:.3f}" for s in parts),
        f"{hop.seconds * 1e6:.0f} us, {1e-9 / hop.seconds_per_byte:.2f} GB/s" if processes != "1" else "",
        str(len(taken)),
    ]


def check(rounds: int) -> None:
    """Print and write the table of predicted against measured step times; exit with 1 if one is too far off."""
    measured = measure(4, rounds)
    shares = ["compute", "gradients", "BatchNorm", "flag", "wait"]
    head = ["network", "processes", "predicted", "measured", "error", *shares, "a hop", "steps"]
    cases = [(size, processes) for size, counts in measured["together"].items() for processes in counts]
    errors, rows = zip(*(row(measured, *case) for case in cases), strict=True)
    text = (
        f"Written by `benchmarks/scaling_model.py check --rounds {rounds}` on {CORES} cores; load average at its end: "
        f"{os.getloadavg()[0]:.1f}. Seconds of a G iteration; measured: median (quartiles) of the steps that other "
        f"programs left alone.\n\n{table(head, list(rows))}"
    )
    sys.stdout.write(text)
    (DOCS / "scaling-check.md").write_text(text)
    far = [
        f"{size} on {processes}: {error:+.1%}"
        for (size, processes), error in zip(cases, errors, strict=True)
        if abs(error) > TOLERANCE
    ]
    if far:
        sys.exit(f"off by more than {TOLERANCE:.0%}: {'; '.join(far)}")


def calibrate(file: Path, heard: Path | None, processes: int, rounds: int) -> None:
    """Write a calibration file: a step of this machine, and the collectives in `heard`, or else this machine's too."""
    measured = measure(processes if heard is None else 1, rounds)
    collectives = links(measured, processes) if heard is None else json.loads(heard.read_text())
    contents = collectives | computing(measured)
    size, shares = next(iter(measured["alone"].items()))
    share, seconds = next(iter(shares.items()))
    steps = record(check_config(size), int(share)).steps
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
    collectives.add_argument("--links", type=Path, help="what biggan doctor --json measured")
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
