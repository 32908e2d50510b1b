"""Collectives and memory predicted by the dry run, compared with those of two real processes."""

import json
from collections import Counter
from pathlib import Path

import pytest
from runs import TINY, run_worker

from biggan.config.preset import resolve
from biggan.cost.engine_cost import EngineSettings, memory, with_collectives
from biggan.cost.scaling import Collective
from biggan.cost.trace import record

WORKER = Path(__file__).with_name("traffic_worker.py")
NAMES = {
    "c10d::allreduce_": "all_reduce",
    "_c10d_functional::all_reduce": "all_reduce",
    "c10d::_allgather_base_": "all_gather",
    "_c10d_functional::all_gather_into_tensor": "all_gather",
}


def issued(*arguments):
    result = json.loads(run_worker(WORKER, 2, *arguments).splitlines()[-1])
    return result, Counter((NAMES[name], size) for name, size in result["collectives"])


def counted(steps, engine):
    found = Counter()
    for step in with_collectives(steps, engine, 2):
        for event in step.events:
            if isinstance(event, Collective):
                found[event.name, event.bytes] += step.repeats
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "overrides"),
    [
        (EngineSettings("ddp"), ["training.precision=bfloat16", "training.accumulation=3", "training.batch_size=36"]),
        (EngineSettings("ddp"), ["model.channels=24"]),  # more than one bucket
        (EngineSettings("deepspeed", 1), ["training.precision=bfloat16", "training.accumulation=2"]),
        (EngineSettings("deepspeed", 2, 3000), []),
    ],
    ids=str,
)
def test_step_issues_the_predicted_collectives_and_holds_the_predicted_bytes(tmp_path, engine, overrides):
    preset = tmp_path / "tiny.yaml"
    preset.write_text(TINY)
    overrides = [f"run.dir={tmp_path / 'run'}", f"data.path={tmp_path}", *overrides]
    overrides += [f"distributed.engine={engine.name}", f"distributed.zero_stage={engine.zero_stage or 1}"]
    result, issued_calls = issued(str(engine.zero_bucket_elements), str(preset), *overrides)
    config = resolve(preset, overrides)
    trace = record(config, config.micro_batch_size // 2)
    expected = counted(trace.steps, engine)
    expected["all_reduce", 8] += 1  # the loop's flag
    assert issued_calls == expected
    held = memory(trace.g_parameters, trace.d_parameters, 0, engine, 2)
    # ZeRO frees its gradients before the step, so their size cannot be measured here.
    for kind in ("weights", "optimizer", "ema", *(["gradients"] if engine.name == "ddp" else [])):
        assert result[kind] == getattr(held, kind), kind
