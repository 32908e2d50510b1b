"""`biggan` with a collapse planted into it, by environment variables.

NAN_STEP, NAN_RANK: G's loss is not a number at that G step, on that rank, as long as no rollback has been made.
ALARM_STEP: the verdict of that G step is `collapsing`, since 3 steps before, as long as no rollback has been made.
KILL: SIGKILL just before or after a function of the rollback: "before rollback.begin".
EXACT: after each rollback, compare the whole state with the checkpoint it went back to.
"""

import os
import signal
from dataclasses import replace

import torch

import biggan.training.loop as loop
from biggan.cli import main
from biggan.collapse.detector import Departure, Level, Verdict
from biggan.collapse.monitor import Monitor
from biggan.objectives.adversarial import LOSSES
from biggan.runs import checkpoint, rollback, run_folder
from biggan.training import run_logger
from biggan.training.recovery import Recovery

MODULES = {"checkpoint": checkpoint, "rollback": rollback, "report": run_logger}
plain_step, plain_hinge, plain_judge, plain_back = (
    loop.train_step,
    LOSSES["hinge"],
    Monitor.judge,
    Recovery.roll_back,
)
poisoned = False
FIRST_SEED = 0
"""Seed of a run before any rollback."""
seed = FIRST_SEED


def train_step(gan, step, real, draws, recipe):
    global poisoned, seed
    seed = draws.seed
    mine = os.environ.get("RANK", "0") == os.environ.get("NAN_RANK", "0")
    poisoned = mine and step == int(os.environ.get("NAN_STEP", "0")) and seed == FIRST_SEED
    return plain_step(gan, step, real, draws, recipe)


def judge(monitor, step, vetoed_steps, alarm):
    found = plain_judge(monitor, step, vetoed_steps, alarm)
    if step == int(os.environ.get("ALARM_STEP", "0")) and seed == FIRST_SEED:
        what = Departure("g_loss", "generator loss", "g_loss rose from <0> to 1", step - 3, True, False)
        return Verdict(step, Level.COLLAPSING, (what,))
    return found


def roll_back(self, good):
    plain_back(self, good)
    if "EXACT" in os.environ:
        session = self.session
        folder = run_folder.checkpoints(session.config.run.dir) / checkpoint.folder_name(good)
        saved, now = checkpoint.load(folder), session.state.tensors(keep=True)
        assert saved.tensors.keys() == now.keys()
        for file, tensors in now.items():
            assert saved.tensors[file].keys() == tensors.keys(), file
            for name, x in tensors.items():
                assert torch.equal(saved.tensors[file][name], x), f"{file}/{name}"
        print(f"exact on rank {session.process.rank}", flush=True)


def killing(when, function):
    def killed(*arguments):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        function(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    return killed


loop.train_step = train_step
LOSSES["hinge"] = replace(
    plain_hinge, g_loss=lambda logits: plain_hinge.g_loss(logits) * (float("nan") if poisoned else 1)
)
Monitor.judge = judge
Recovery.roll_back = roll_back
if "KILL" in os.environ:
    when, name = os.environ["KILL"].split()
    module, function = name.split(".")
    setattr(MODULES[module], function, killing(when, getattr(MODULES[module], function)))

if __name__ == "__main__":
    main()
