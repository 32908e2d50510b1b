"""Manifests, compose file and Dockerfile against published schemas; and these checks against planted mistakes."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import kubernetes_validate
import pydantic
import pytest
import yaml
from kubeflow.training import ApiClient
from kubeflow_trainer_api import models as trainer

from biggan import errors

ROOT = Path(__file__).parents[2]
MANIFESTS = {
    (path.name, document["kind"], document["metadata"]["name"]): document
    for path in sorted((ROOT / "launch" / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}
SCRIPTS = Path(sys.executable).parent
EXIT_CODES = {name: code for name, code in vars(errors).items() if name.startswith("EXIT_")}


class Refused(Exception):
    """A manifest that its schema does not allow."""


def manifest(kind: str) -> dict[str, Any]:
    (document,) = (document for (_, of, _), document in MANIFESTS.items() if of == kind)
    return copy.deepcopy(document)


def check_core(document: dict[str, Any]) -> None:
    """A kind of Kubernetes' own, unknown keys refused."""
    try:
        kubernetes_validate.validate(document, "1.37", strict=True)
    except jsonschema.ValidationError as error:
        raise Refused(f"{error.json_path}: {error.message}") from error


def check_kept(document: Any, kept: Any, path: str = "$") -> None:
    """A model drops unknown fields and converts wrong types: nothing may be lost in a round trip."""
    if isinstance(document, dict) and isinstance(kept, dict):
        for key, value in document.items():
            if value != {} and key not in kept:
                raise Refused(f"{path}.{key}: unknown key")
            check_kept(value, kept.get(key, {}), f"{path}.{key}")
    elif isinstance(document, list) and isinstance(kept, list) and len(document) == len(kept):
        for index, (value, of) in enumerate(zip(document, kept, strict=True)):
            check_kept(value, of, f"{path}[{index}]")
    elif document != kept or type(document) is not type(kept):
        raise Refused(f"{path}: {document!r} was read as {kept!r}")


def check_trainer(document: dict[str, Any]) -> None:
    """A kind of Kubeflow Trainer v2, and the jobs inside it."""
    model = getattr(trainer, f"TrainerV1alpha1{document['kind']}")
    try:
        read = model.from_dict(document)
    except pydantic.ValidationError as error:
        raise Refused(str(error)) from error
    check_kept(document, read.to_dict())
    for replicated in document["spec"].get("template", {}).get("spec", {}).get("replicatedJobs", []):
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inner"}, **replicated["template"]}
        check_core({**job, "metadata": {"name": "inner", **replicated["template"]["metadata"]}})


def check_pytorchjob(document: dict[str, Any]) -> None:
    """A kind of the training operator v1, and the pods inside it."""
    client = ApiClient()
    try:
        read = client.deserialize(SimpleNamespace(data=json.dumps(document)), "KubeflowOrgV1PyTorchJob")
    except ValueError as error:
        raise Refused(str(error)) from error
    check_kept(document, client.sanitize_for_serialization(read))
    for replica in document["spec"]["pytorchReplicaSpecs"].values():
        check_core({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "inner"}, **replica["template"]})


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "PersistentVolumeClaim": check_core,
    "Job": check_core,
    "TrainingRuntime": check_trainer,
    "TrainJob": check_trainer,
    "PyTorchJob": check_pytorchjob,
}


@pytest.mark.parametrize("key", MANIFESTS, ids="-".join)
def test_every_manifest_is_what_its_published_schema_allows(key):
    document = MANIFESTS[key]
    CHECKS[document["kind"]](document)


NODE_JOB = ("spec", "template", "spec", "replicatedJobs", 0, "template", "spec")
MASTER = ("spec", "pytorchReplicaSpecs", "Master")


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Job", ("spec", "backoffLimits"), 3),
        ("Job", ("spec", "podFailurePolicy", "rules", 0, "onExitCodes", "values"), ["two"]),
        ("Job", ("spec", "template", "spec", "containers", 0, "volumeMounts", 0, "path"), "/data"),
        ("TrainJob", ("spec", "trainer", "numNodes"), "2"),
        ("TrainJob", ("spec", "trainer", "nodes"), 2),
        ("TrainJob", ("spec", "runtimeRef"), {"kind": "TrainingRuntime"}),
        ("TrainingRuntime", ("spec", "mlPolicy", "pytorch"), {"nodes": 1}),
        ("TrainingRuntime", ("spec", "template", "spec", "failurePolicy", "maxRestart"), 3),
        ("TrainingRuntime", (*NODE_JOB, "podFailurePolicy", "rules", 0, "action"), 7),
        ("TrainingRuntime", (*NODE_JOB, "template", "spec", "terminationGracePeriod"), 300),
        ("TrainingRuntime", (*NODE_JOB, "template", "spec", "volumes", 2, "emptyDir", "size"), "16Gi"),
        ("PyTorchJob", ("spec", "nprocPerNode"), 8),
        ("PyTorchJob", ("spec", "runPolicy", "backoffLimits"), 3),
        ("PyTorchJob", (*MASTER, "replicas"), "one"),
        ("PyTorchJob", (*MASTER, "template", "spec", "containers", 0, "env", 0, "value"), 138),
        ("PyTorchJob", (*MASTER, "template", "spec", "terminationGracePeriod"), 300),
    ],
)
def test_a_planted_mistake_is_refused(kind, path, value):
    document = manifest(kind)
    CHECKS[kind](document)
    *parents, last = path
    inner = document
    for step in parents:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(Refused):
        CHECKS[kind](document)


def test_a_claim_with_a_mistake_is_refused():
    claim = copy.deepcopy(MANIFESTS["volumes.yaml", "PersistentVolumeClaim", "biggan-data"])
    claim["spec"]["accessMode"] = claim["spec"].pop("accessModes")
    with pytest.raises(Refused):
        check_core(claim)


def test_claims_and_images_are_the_same_everywhere():
    claims = {name for _, kind, name in MANIFESTS if kind == "PersistentVolumeClaim"}
    text = "".join(path.read_text() for path in (ROOT / "launch" / "kubernetes").glob("*.yaml"))
    assert set(re.findall(r"claimName: (\S+)", text)) == claims
    assert set(re.findall(r"image: (\S+)", text)) == {"biggan:cpu", "biggan:cuda"}


def test_the_runtime_restarts_what_was_preempted_and_not_what_is_hopeless():
    job_set = manifest("TrainingRuntime")["spec"]["template"]["spec"]
    hopeless, stopped, disrupted = job_set["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert stopped["onExitCodes"]["values"] == [errors.EXIT_INTERRUPTED]
    ends_the_pod = set(EXIT_CODES.values()) - {errors.EXIT_LOST}  # which torchrun answers with a restart
    assert set(hopeless["onExitCodes"]["values"]) | {errors.EXIT_INTERRUPTED} == ends_the_pod
    # The messages of Kubernetes' job controller, as JobSet's rules see them.
    messages = {
        "Container node for pod default/biggan-node-0-0-x failed with exit code 75 matching FailJob rule at index 1": 0,
        "Pod default/biggan-node-0-0-x has condition DisruptionTarget matching FailJob rule at index 2": 0,
        "Container node for pod default/biggan-node-0-0-x failed with exit code 2 matching FailJob rule at index 0": 1,
    }
    assert disrupted["onPodConditions"][0]["type"] == "DisruptionTarget"
    for message, expected in messages.items():
        rules = job_set["failurePolicy"]["rules"]
        hits = [
            index
            for index, rule in enumerate(rules)
            if any(re.search(pattern, message) for pattern in rule.get("onJobFailureMessagePatterns", [""]))
        ]
        assert hits[0] == expected, message


def lint(arguments: list[str | Path]) -> tuple[int, str]:
    done = subprocess.run(
        [SCRIPTS / arguments[0], *arguments[1:]], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_dockerfile_passes_the_linter_and_a_mistake_does_not(tmp_path):
    dockerfile = ROOT / "docker" / "Dockerfile"
    assert lint(["hadolint", dockerfile]) == (0, "")
    mistaken = tmp_path / "Dockerfile"
    mistaken.write_text(dockerfile.read_text().replace("COPY --from=dependencies-cpu", "COPY --from=dependencies-gpu"))
    code, said = lint(["hadolint", mistaken])
    assert code == 1
    assert "DL3022" in said


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("stop_grace_period", "stop_grace_seconds", "stop_grace_seconds"),
        ("service_healthy", "service_well", "service_healthy"),
        ("data:/workspace/data", "dataset:/workspace/data", "dataset"),
        ("    mlflow:\n      condition", "    tracker:\n      condition", "tracker"),
    ],
)
def test_the_compose_file_is_valid_and_a_mistake_in_it_is_refused(tmp_path, right, wrong, said):
    compose = ROOT / "docker" / "compose.yaml"
    assert lint(["docker-compose", "--file", compose, "config", "--quiet"]) == (0, "")
    mistaken = tmp_path / "compose.yaml"
    mistaken.write_text(compose.read_text().replace(right, wrong))
    code, message = lint(["docker-compose", "--file", mistaken, "config", "--quiet"])
    assert code != 0
    assert said in message
