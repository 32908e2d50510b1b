"""A planted collapse: pins and messages, and rollbacks that are exact, collective and survive kills."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import biggan, finish, weights

from biggan.config.preset import resolve
from biggan.errors import InputError
from biggan.runs import checkpoint, rollback, run_folder
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.lineage import child_config, create_child, find_ancestor
from biggan.runs.ring import steps_on_disk
from biggan.startup import build

PLANTED = Path(__file__).with_name("planted.py")
STEPS = ["training.steps=14", "checkpoint.every_steps=2", "checkpoint.keep_last=20", "training.log_every_steps=2"]


def planted(arguments, processes=None, **variables):
    """Run `biggan train` with a planted collapse and return (exit code, output)."""
    done = finish(["train", *arguments], processes, program=PLANTED, **variables)
    return done.returncode, done.stdout + done.stderr


def steps_in(rows):
    return [json.loads(line)["step"] for line in rows.read_text().splitlines()]


def events(run):
    return [json.loads(line) for line in (run / "collapse/events.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_a_nan_on_one_rank_rolls_all_ranks_back_to_the_exact_good_state(tiny, tmp_path, engine):
    arguments = [*tiny, *STEPS, "collapse.on_collapse=rollback", f"distributed.engine={engine}"]
    code, output = planted(arguments, processes=2, NAN_STEP="7", NAN_RANK="1", EXACT="")
    assert code == 0, output
    assert "exact on rank 0" in output
    assert "exact on rank 1" in output
    run = tmp_path / "run"
    (event,) = events(run)
    assert (event["level"], event["action"], event["onset_step"], event["good_step"]) == (
        "collapsed", "rolled back", 7, 6
    )  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(2, 15, 2))
    state = json.loads((run / "checkpoints/step_00000014/state.json").read_text())
    assert (state["rollbacks"], state["since_step"], state["step"]) == (1, 6, 14)


@pytest.mark.slow
def test_a_rollback_changes_the_training_trajectory(tiny, tmp_path, undisturbed):
    arguments = [tiny[0], tiny[2], *STEPS, "collapse.on_collapse=rollback", "rollback.optimizer.g_lr=x1"]
    planted([*arguments, f"run.dir={tmp_path / 'run'}"], ALARM_STEP="10")
    (event,) = events(tmp_path / "run")
    assert (event["step"], event["onset_step"], event["good_step"]) == (10, 7, 6)
    abandoned = [json.loads(line) for line in (tmp_path / "run/collapse/attempt_01.jsonl").read_text().splitlines()]
    assert [row["step"] for row in abandoned] == [8, 10]
    unchanged = [json.loads(line) for line in (undisturbed(*STEPS) / "metrics.jsonl").read_text().splitlines()]
    assert [row["g_loss"] for row in abandoned] == [row["g_loss"] for row in unchanged if row["step"] in (8, 10)]
    after = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [[row["g_loss"] for row in rows if row["step"] > 6] for rows in (unchanged, after)]
    assert not set(losses[0]) & set(losses[1])
    assert [row["g_loss"] for row in after if row["step"] <= 6] == [
        row["g_loss"] for row in unchanged if row["step"] <= 6
    ]


@pytest.mark.long
def test_a_run_killed_during_a_rollback_ends_with_the_same_weights(tiny, tmp_path):
    """An alarm at step 12 with onset 9 rolls back to step 8; checkpoint 10 is on the abandoned trajectory."""
    arguments = [tiny[0], tiny[2], *STEPS, "collapse.on_collapse=rollback"]
    assert planted([*arguments, f"run.dir={tmp_path / 'whole'}"], ALARM_STEP="12")[0] == 0
    whole = weights(tmp_path / "whole/checkpoints/step_00000014")
    for kill in ("before rollback.begin", "after rollback.begin", "after checkpoint.set_aside_after"):
        run = tmp_path / kill.replace(" ", "_")
        assert planted([*arguments, f"run.dir={run}"], ALARM_STEP="12", KILL=kill)[0] == -9
        code, output = planted([*arguments, f"run.dir={run}"], ALARM_STEP="12")
        assert code == 0, output
        ended = weights(run / "checkpoints/step_00000014")
        assert ended.keys() == whole.keys()
        assert [k for k in whole if not torch.equal(whole[k], ended[k])] == []
        assert json.loads((run / "checkpoints/pinned.json").read_text())["good"] == 8
        assert steps_in(run / "metrics.jsonl") == steps_in(tmp_path / "whole/metrics.jsonl")
        assert steps_in(run / "collapse/attempt_01.jsonl") == [10, 12]


@pytest.mark.slow
def test_a_child_of_a_rolled_back_run_inherits_the_values_in_force(tiny, tmp_path):
    changes = ["collapse.on_collapse=rollback", "rollback.objective.r1.gamma=1.0"]
    assert planted([*tiny, *STEPS, *changes], ALARM_STEP="10")[0] == 0
    run = tmp_path / "run"
    before, after = (child_config(find_ancestor(f"{run}@{step}", "--resume"), tmp_path / "c", []) for step in (6, 14))
    assert (before.optimizer.g_lr, before.objective.r1.gamma) == (2e-4, 0.0)
    assert (after.optimizer.g_lr, after.objective.r1.gamma) == (1e-4, 1.0)
    assert before.rollback.root == after.rollback.root == {"optimizer.g_lr": "x0.5", "objective.r1.gamma": 1.0}


def test_a_child_keeps_the_data_order_that_its_positions_are_valid_in(tiny, tmp_path, digits):
    """The parent was rolled back once; the child has another seed, and no rollback yet."""
    parent, child = resolve(Path(tiny[0]), tiny[1:]), tmp_path / "child"
    root = run_folder.checkpoints(parent.run.dir)
    cursors = [[3, 1, k] for k in range(6)]
    saved = Checkpoint({}, {"step": 6, "rollbacks": 1, "cursors": cursors}, parent.to_yaml())
    checkpoint.save(root, 6, saved)
    (parent.run.dir / "config.yaml").write_text(parent.to_yaml())
    shutil.copy(digits / "dataset.json", parent.run.dir)
    ancestor = find_ancestor(f"{parent.run.dir}@6", "--resume")
    for key in ("data.shuffle_buffer=20", "data.streams=3", "data.path=x"):
        with pytest.raises(InputError, match=f"^{key.partition('=')[0]}: "):
            child_config(ancestor, child, [key])
    config = child_config(ancestor, child, ["run.seed=9", "training.steps=8"])
    create_child(ancestor, config, fresh=False)
    state = checkpoint.load(child / "checkpoints/step_00000006").state
    assert state["cursors"] == [tuple(cursor) for cursor in cursors]
    at_parent, at_child = (
        SimpleNamespace(data_seed=of.get("data_seed"), rollbacks=of["rollbacks"]) for of in (saved.state, state)
    )
    assert build.data_seed(config, at_child) == build.data_seed(parent, at_parent) != parent.run.seed
    grandchild = child_config(find_ancestor(f"{child}@6", "--resume"), tmp_path / "b", ["training.steps=8"])
    create_child(find_ancestor(f"{child}@6", "--resume"), grandchild, fresh=False)
    inherited = checkpoint.load(tmp_path / "b/checkpoints/step_00000006").state
    assert inherited["data_seed"] == state["data_seed"]


def test_a_corrupt_checkpoint_after_a_rollback_does_not_remove_others(tmp_path):
    """The record of the rollback to step 2 is permanent; later checkpoints are on the new trajectory."""
    for step, count in ((2, 0), (4, 1), (6, 1)):
        checkpoint.save(tmp_path, step, Checkpoint({}, {"rollbacks": count}, ""))
    rollback.begin(tmp_path, rollback.Rollback(1, 2))
    (tmp_path / "step_00000006/state.json").write_text("")
    rollback.finish(tmp_path, tmp_path)
    assert steps_on_disk(tmp_path) == [2, 4, 6]
    checkpoint.save(tmp_path, 4, Checkpoint({}, {"rollbacks": 0}, ""))
    rollback.finish(tmp_path, tmp_path)
    assert steps_on_disk(tmp_path) == [2]


@pytest.mark.slow
def test_a_halt_pins_checkpoints_writes_the_report_and_prints_the_resume_command(tiny, tmp_path):
    run = tmp_path / "run"
    code, output = planted([*tiny, *STEPS, "checkpoint.keep_last=2", "checkpoint.horizon_steps=0"], ALARM_STEP="10")
    assert code == 7, output
    assert "Traceback" not in output
    assert output.count("biggan: ") == 1
    assert f"biggan train --resume {run}@good --as" in output
    pins = json.loads((run / "checkpoints/pinned.json").read_text())
    assert pins["good"] == 6
    assert (run / "collapse/report.html").is_file()
    child = tmp_path / "child"
    biggan(["train", "--resume", f"{run}@good", "--as", str(child), "optimizer.g_lr=1e-4", "training.steps=8"])
    lineage = json.loads((child / "lineage.json").read_text())
    assert (lineage["parent"], lineage["step"]) == (str(run), 6)
    assert lineage["changes"]["optimizer.g_lr"] == [0.0002, 0.0001]
    assert sorted(f.name for f in (child / "checkpoints").glob("step_*")) == ["step_00000006", "step_00000008"]
    grandchild = child_config(find_ancestor(f"{child}@6", "--resume"), tmp_path / "grandchild", [])
    create_child(
        find_ancestor(f"{child}@6", "--resume"), grandchild, fresh=False
    )  # from the first checkpoint of the parent
    assert (tmp_path / "grandchild/lineage.json").is_file()


@pytest.mark.slow
def test_on_collapse_continue_continues_and_max_rollbacks_0_halts(tiny, tmp_path):
    code, output = planted([*tiny, *STEPS, "collapse.on_collapse=continue"], ALARM_STEP="10")
    assert code == 0, output
    assert [event["action"] for event in events(tmp_path / "run")] == ["pinned", "none"]
    code, output = planted(
        [
            *tiny[:1],
            tiny[2],
            f"run.dir={tmp_path / 'b'}",
            *STEPS,
            "collapse.on_collapse=rollback",
            "collapse.max_rollbacks=0",
        ],
        ALARM_STEP="10",
    )
    assert code == 7, output


@pytest.mark.slow
def test_a_child_without_changes_has_its_parents_trajectory(tmp_path, undisturbed):
    run = undisturbed(*STEPS)
    resume = ["train", "--resume", f"{run}@6", "--as", str(tmp_path / "child")]
    biggan(resume)
    ends = [weights(folder / "checkpoints/step_00000014") for folder in (run, tmp_path / "child")]
    assert [k for k in ends[0] if not torch.equal(ends[0][k], ends[1][k])] == []
    parent = find_ancestor(f"{run}@6", "--resume")
    create_child(parent, child_config(parent, tmp_path / "child", []), fresh=False)  # it exists, with the same lineage
    with pytest.raises(InputError, match=r"^--as: .*run@6"):
        create_child(parent, child_config(parent, tmp_path / "child", ["optimizer.g_lr=1e-4"]), fresh=False)
    with pytest.raises(InputError, match=r"^--fresh: .*child"):
        create_child(parent, child_config(parent, tmp_path / "child", []), fresh=True)
    for text, message in (
        ("@5", r"^--resume: .*\b5\b.*run@[46]"),
        ("@good", r"^--resume: .*\bgood\b.*2, 4, 6"),
        ("", r"^--resume: .*RUN@STEP"),
        ("/nowhere@6", r"^--resume: .*nowhere .*config\.yaml"),
    ):
        with pytest.raises(InputError, match=message):
            find_ancestor(f"{run}{text}", "--resume")
    with pytest.raises(InputError, match=r"^model\.channels: "):
        child_config(parent, tmp_path / "x", ["model.channels=4"])
