"""`training.precision: auto`: what the hardware has, settled when a run begins and kept while it goes on."""

import pytest
import torch
import yaml

from biggan.runs import run_folder


@pytest.mark.slow
@pytest.mark.parametrize(("begun_on", "goes_on_on"), [({"amx_bf16": True}, {}), ({}, {"avx512_bf16": True})])
def test_auto_is_settled_by_the_machine_a_run_begins_on(run_command, monkeypatch, tiny, tmp_path, begun_on, goes_on_on):
    precision = "bfloat16" if begun_on else "float32"
    run = ["train", *tiny, "training.precision=auto", "checkpoint.every_steps=1"]

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: begun_on)
    assert run_command(*run, "training.steps=1")[0] == 0
    saved = yaml.safe_load((tmp_path / "run" / run_folder.CONFIG).read_text())
    assert saved["training"]["precision"] == precision

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: goes_on_on)
    code, said = run_command(*run, "training.steps=2")
    assert code == 0
    warned = "training.precision: bfloat16, " in said
    assert warned == (precision == "bfloat16")
    saved = yaml.safe_load((tmp_path / "run" / run_folder.CONFIG).read_text())
    assert (saved["training"]["precision"], saved["training"]["steps"]) == (precision, 2)


@pytest.mark.slow
def test_bfloat16_without_hardware_is_warned_of(run_command, monkeypatch, tiny):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    code, said = run_command("train", *tiny, "training.precision=bfloat16", "training.steps=1")
    assert code == 0
    assert "warning: training.precision: bfloat16" in said
    assert "training.precision=float32 or auto is several times faster" in said
