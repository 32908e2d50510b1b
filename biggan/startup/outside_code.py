"""A researcher's own code: found, recorded and imported for `biggan train --allow-code`, and by nothing else.

The files are found and their hashes compared before anything of them runs.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import nn

from biggan.config import Config
from biggan.config.interventions import in_force
from biggan.distributed.process import Process
from biggan.errors import InputError, printable_line
from biggan.files import sha256_of, write_atomically
from biggan.json_file import read_if_present
from biggan.models.networks import FURTHER_OUTPUTS
from biggan.objectives.passes import FAKE, REAL
from biggan.objectives.seams import Adversarial, Term, WeightTerm
from biggan.runs import lineage
from biggan.startup.recipe import d_terms, techniques

FILE = "extension.json"
KINDS: dict[str, type] = {"loss": Adversarial, "terms": Term, "weight_terms": WeightTerm}
"""The types of parts by the last part of their key; all other parts are called."""


@dataclass(frozen=True)
class Source:
    """The file of a module, as a run imported it."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    file: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Sources:
    """The contents of `extension.json`: the sources of a run by the name of the module."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    modules: dict[str, Source]


@dataclass(frozen=True)
class Extension:
    """The imported parts by import path, and the files of their modules by name."""

    sources: Mapping[str, Source] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)


def load(config: Config, allow_code: bool, process: Process) -> Extension:
    """Import every part that `extension`, or a change of it, names; raise InputError on every process. Collective.

    Without `allow_code`, or if a file differs from the run's record, nothing is imported.
    """
    named = named_parts(config)
    if not named:
        return Extension()
    if not allow_code:
        (key, path), *_ = named
        raise InputError(f"{key}: {path} is code from outside; only biggan train --allow-code imports it")
    sources = process.together(lambda: located(named))
    everywhere = process.gather(sources)
    process.together(lambda: check_same_everywhere(everywhere, process.hosts))
    process.together(lambda: check_unchanged(config.run.dir, sources) if process.is_main else None)
    if process.is_main:
        for module, source in sources.items():
            keys = ", ".join(dict.fromkeys(key for key, path in named if path.startswith(f"{module}:")))
            line = f"importing {module} from {source.file} (SHA-256 {source.sha256[:12]}): {keys}"
            sys.stderr.write(f"{printable_line(line)}\n")
    parts = process.together(lambda: imported(named, sources, config.run.seed))
    process.together(lambda: check_combinations(config, parts))
    return Extension(sources, parts)


def named_parts(config: Config) -> list[tuple[str, str]]:
    """Return (key, import path) of every part that may come into force in this run."""
    found: dict[tuple[str, str], str] = {}
    for prefix, values in (("", config), ("intervention.", in_force(config)), ("rollback.", in_force(config, 1))):
        for key, path in values.extension.named():
            found.setdefault((key, path), prefix + key)
    return [(key, path) for (_, path), key in found.items()]


def located(named: list[tuple[str, str]]) -> dict[str, Source]:
    """Return the source of every module, found as `python -m biggan` finds it: in the working directory first."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    modules = {path.partition(":")[0]: key for key, path in named}
    files = {module: module_file(module, key) for module, key in modules.items()}
    return {module: Source(file=str(file), sha256=sha256_of(file)) for module, file in files.items()}


def module_file(module: str, key: str) -> Path:
    """Return the file of a module without importing it or its packages; raise InputError, with `key`, without one."""
    first, *rest = module.split(".")
    try:
        spec = find_spec(first)
    except ValueError:  # __main__
        spec = None
    name = first
    for inner in rest:
        folders = None if spec is None else spec.submodule_search_locations
        name = f"{name}.{inner}"
        spec = None if folders is None else PathFinder.find_spec(name, list(folders))
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        raise InputError(
            f"{key}: no file of module {module} in {os.getcwd()} or among the installed packages; "
            f"start biggan in the folder of the file, or set PYTHONPATH"
        )
    return Path(spec.origin)


def check_same_everywhere(everywhere: list[dict[str, Source]], hosts: tuple[str, ...]) -> None:
    """Raise InputError unless all processes found the same code."""
    for rank, other in enumerate(everywhere):
        for module, source in everywhere[0].items():
            if other[module].sha256 != source.sha256:
                raise InputError(
                    f"{source.file}: differs between rank 0 ({hosts[0]}) and rank {rank} ({hosts[rank]}); "
                    f"copy one to all machines"
                )


def check_unchanged(run_dir: Path, sources: Mapping[str, Source]) -> None:
    """Raise InputError if a file differs from the one that the run has imported before."""
    before = read(run_dir)
    for module, source in sources.items():
        if module in before and before[module].sha256 != source.sha256:
            raise InputError(
                f"{source.file}: is not the file that {run_dir} started with (SHA-256 "
                f"{source.sha256[:12]}, then {before[module].sha256[:12]}); restore it, or continue with the new "
                f"code in a child run: biggan train --resume {run_dir}@STEP --as NEWRUN --allow-code"
            )


def read(run_dir: Path) -> dict[str, Source]:
    """Return the run's record of its sources; empty without one. Raises InputError if it is damaged."""
    fix = "restore it, or choose another run.dir"
    found = read_if_present(run_dir / FILE, Sources, fix, error=InputError)
    return {} if found is None else found.modules


def record(run_dir: Path, sources: Mapping[str, Source]) -> list[str]:
    """Add the sources to the run's record; return a line for each that differs from the parent's, of a child run."""
    before = read(run_dir)
    if now := {module: source for module, source in sources.items() if module not in before}:
        write_atomically(run_dir / FILE, json.dumps(asdict(Sources(before | now)), indent=1) + "\n")
    origin = lineage.read(run_dir)
    of_parent = {} if origin is None or not sources else read(Path(origin.parent))
    return [
        f"{source.file}: another file than {of_parent[module].file}, which the parent imported"
        for module, source in sources.items()
        if module in of_parent and of_parent[module].sha256 != source.sha256
    ]


def imported(named: list[tuple[str, str]], sources: Mapping[str, Source], seed: int) -> dict[str, Any]:
    """Import the modules and return the part at each import path: one object, however many keys name it.

    Random numbers that a part draws for its initial state come from `seed`.
    """
    parts: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for key, path in named:
            if path not in parts:
                parts[path] = imported_part(key, path, sources[path.partition(":")[0]].file)
            check_kind(key, path, parts[path])
    return parts


def imported_part(key: str, path: str, file: str) -> Any:
    """Return the object at an import path; a class is called without arguments. Raises InputError with `key`."""
    module, _, name = path.partition(":")
    try:
        part = getattr(importlib.import_module(module), name)
        return part() if isinstance(part, type) else part
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        place = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{key}: {path}: {type(error).__name__}: {error} ({file}{place})") from None


def check_kind(key: str, path: str, part: Any) -> None:
    """Raise InputError unless the part can be what its key says."""
    kind = KINDS.get(key.rpartition(".")[2])
    if not (callable(part) if kind is None else isinstance(part, kind)):
        expected = "callable" if kind is None else f"of type biggan.objectives.seams.{kind.__name__}"
        raise InputError(f"{key}: {path} is not {expected}; docs/extending.md shows one")
    if kind in (Term, WeightTerm) and not isinstance(getattr(part, "name", None), str):
        raise InputError(f"{key}: {path} has no `name`, which its statistics are logged with; add one")
    if isinstance(part, nn.Module) and any(weight.requires_grad for weight in part.parameters()):
        raise InputError(f"{key}: {path} has parameters, which nothing trains; call requires_grad_(False) on it")


def check_combinations(config: Config, parts: Mapping[str, Any]) -> None:
    """Raise InputError if a part cannot work beside the others, or with these networks."""
    for path, part in parts.items():
        for output in getattr(part, "outputs", ()):
            if output not in FURTHER_OUTPUTS:
                raise InputError(
                    f"extension: {path} needs D's output '{output}', and D has {', '.join(FURTHER_OUTPUTS)}; use that, "
                    f"or a D and a loop of your own (docs/extending.md)"
                )
    for values in (in_force(config), in_force(config, 1)):
        own = values.extension
        built_in = [term.name for term, *_ in d_terms(values, techniques())]
        for network, taken in ((own.discriminator, {FAKE, REAL, *built_in}), (own.generator, {FAKE, REAL})):
            for path in network.terms:
                term: Term = parts[path]
                if term.name in taken:
                    raise InputError(f"extension: {path} has the name '{term.name}', which is taken; rename it")
                taken.add(term.name)
                if term.differentiates and config.model.d_normalization == "batch":
                    raise InputError(
                        f"extension: {path} needs the gradient of one image's logit, and with "
                        f"model.d_normalization=batch a logit depends on other images; use layer or none"
                    )
