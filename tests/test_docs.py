import re
import runpy
import shlex
import sys
from pathlib import Path

import torch
from runs import TINY

from biggan.config.preset import resolve, resolve_tree
from biggan.config.yaml_text import load_yaml
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.startup import build, outside_code
from biggan.startup.recipe import compose
from biggan.training.step import train_step

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_configuration_page_is_up_to_date():
    script = runpy.run_path(str(DOCS / "configuration.py"))
    assert script["page"]() == (DOCS / "configuration.md").read_text(), "run `make docs`"


def blocks(text, language):
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_every_block_of_the_extending_page_runs_and_has_twenty_lines(tmp_path, monkeypatch):
    """The parts become a file that a config names, as on the command line; what follows them is run as one script."""
    parts, script = (DOCS / "extending.md").read_text().split("## From Python")
    python = [blocks(part, "python") for part in (parts, script)]
    assert max(len(block.splitlines()) for block in (*python[0], *python[1])) <= 20
    (tmp_path / "parts.py").write_text("\n\n".join(python[0]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)

    (extension,) = blocks(parts, "yaml")
    config = resolve_tree(load_yaml(TINY + extension), ["run.dir=x", "data.path=y"])
    alone = Process(0, 1, torch.device("cpu"), None)
    found = outside_code.load(config, True, alone)
    assert sorted(found.sources) == ["parts"]
    gan = build.gan(config, alone, FiniteGuard(alone.device), found.parts)
    recipe = compose(config, gan, build.autocast(config, alone.device))
    x = torch.rand(config.micro_batch_size, 3, 32, 32) * 2 - 1
    y = torch.randint(10, (config.micro_batch_size,))
    stats = train_step(gan, 1, iter([(x, y)] * recipe.real_batches), build.draws(config, alone), recipe)
    assert {"d_around", "d_anchor", "d_accuracy_real"} <= stats.keys()
    assert recipe.scheduled_values(500) == {"schedule/g_decay_weight": 5e-5}
    assert all(value.isfinite() for value in stats.values())
    assert gan.techniques["parts:Replay"].count == recipe.d_steps * config.micro_batch_size

    exec(compile("\n".join(python[1]), "extending.md", "exec"), {"__name__": "extending"})
    del sys.modules["parts"]
    for line in re.findall(r"^ +biggan train (configs/.*)$", parts, re.MULTILINE):
        preset, *overrides = [word for word in shlex.split(line) if not word.startswith("--")]
        assert resolve(Path(preset), overrides).extension.named()
