"""launch/kubernetes/run.sh: the operators' variables in, torchrun.sh's out; exit codes and signals pass through."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INJECTED = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "8",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "biggan-node-0-0.biggan",
    "PET_MASTER_PORT": "29500",
}


def start(tmp_path: Path, torchrun: str, **variables: str) -> subprocess.Popen:
    """run.sh beside a stand-in for torchrun.sh, in a pod's environment."""
    (tmp_path / "kubernetes").mkdir()
    shutil.copy(ROOT / "launch" / "kubernetes" / "run.sh", tmp_path / "kubernetes")
    (tmp_path / "torchrun.sh").write_text(f"#!/usr/bin/env bash\n{torchrun}\n")
    (tmp_path / "torchrun.sh").chmod(0o755)
    return subprocess.Popen(
        [tmp_path / "kubernetes" / "run.sh", "configs/digits.yaml", "run.dir=runs/a b"],
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("rank", "processes", "expected"),
    [
        ("1", "8", "2 8 biggan-node-0-0.biggan:29500"),
        ("0", "8", "2 8 localhost:29500"),
        ("0", "auto", "2 unset localhost:29500"),
    ],
)
def test_a_pod_tells_torchrun_what_the_operator_injected(tmp_path, rank, processes, expected):
    pod = start(
        tmp_path,
        'echo "$NNODES ${NPROC_PER_NODE:-unset} $RDZV_ENDPOINT"; printf "%s|" "$@"; env | grep PET_',
        **INJECTED | {"PET_NODE_RANK": rank, "PET_NPROC_PER_NODE": processes},
    )
    said, _ = pod.communicate(timeout=120)
    assert said.splitlines() == [expected, "configs/digits.yaml|run.dir=runs/a b|"]


def test_a_pod_without_an_operator_is_refused(tmp_path):
    pod = start(tmp_path, "exit 0", **{name: value for name, value in INJECTED.items() if name != "PET_NODE_RANK"})
    said, _ = pod.communicate(timeout=120)
    assert pod.returncode == 2
    assert said.startswith("launch/kubernetes/run.sh: PET_NODE_RANK is not set")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "trainer", "training_operator"), [(0, 0, 0), (2, 2, 2), (5, 5, 5), (75, 75, 138), (1, 1, 138)]
)
def test_only_what_may_end_otherwise_asks_for_another_try(tmp_path, code, trainer, training_operator):
    for folder, variables, expected in (
        ("trainer", {}, trainer),
        ("training-operator", {"RETRY_EXIT_CODE": "138"}, training_operator),
    ):
        (tmp_path / folder).mkdir()
        pod = start(tmp_path / folder, f"exit {code}", **INJECTED, **variables)
        pod.communicate(timeout=120)
        assert pod.returncode == expected


@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_a_signal_reaches_torchrun_and_its_end_is_waited_for(tmp_path, name):
    # The signal comes as early as it can; every wait inside is short, so that the trap runs at once.
    stand_in = f"trap 'sleep 1; echo checkpoint; exit 75' TERM; kill -{name} $PPID; while :; do sleep 0.1; done"
    pod = start(tmp_path, stand_in, **INJECTED)
    said, _ = pod.communicate(timeout=120)
    assert said == "checkpoint\n"
    assert pod.returncode == 75


def test_without_an_engine_one_line_says_what_is_missing():
    done = subprocess.run(
        [ROOT / "docker" / "engine.sh"],
        env=os.environ | {"ENGINE": "no-such-engine"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("no container engine answers (tried: no-such-engine)")
    assert done.stderr.count("\n") == 1
