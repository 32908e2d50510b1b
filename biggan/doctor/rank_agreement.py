"""Do all ranks have the same versions, config and environment? Pure functions of what they said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from biggan.doctor.check import Check, Status, name_ranks, odd_ones, some
from biggan.doctor.host import HostFacts


def check_versions(facts: Mapping[int, HostFacts]) -> Check:
    """Equal Python, libraries and sources everywhere."""
    differing = differences({rank: f.versions for rank, f in facts.items()}, hosts_of(facts))
    if differing:
        return Check("versions", Status.FAIL, some(differing), "install the same versions and checkout on every host")
    have = facts[min(facts)].versions
    return Check("versions", Status.PASS, ", ".join(f"{name} {have[name]}" for name in have if have[name] != "none"))


def check_config(facts: Mapping[int, HostFacts]) -> Check:
    """The same resolved config everywhere, fit for this number of processes."""
    hosts = hosts_of(facts)
    wrong = {rank: f.config_error for rank, f in facts.items() if f.config_error}
    mend = "give every process the same CONFIG and overrides"
    if wrong:
        first = min(wrong)
        same = [rank for rank, error in wrong.items() if error == wrong[first]]
        where = "" if len(same) == len(facts) else f"{name_ranks(same, hosts)}: "
        return Check("config", Status.FAIL, where + wrong[first], "mend what it names" if not where else mend)
    tables = {rank: f.config for rank, f in facts.items() if f.config is not None}
    if not tables:
        return Check("config", Status.NOT_CHECKED, "", "give CONFIG [key=value ...]")
    if len(tables) < len(facts):
        return Check("config", Status.FAIL, f"{name_ranks(facts.keys() - tables.keys(), hosts)}: no CONFIG", mend)
    differing = differences(tables, hosts)
    if differing:
        return Check("config", Status.FAIL, some(differing), mend)
    return Check("config", Status.PASS, f"{len(tables[min(tables)])} keys equal, hash {fingerprint(tables)}")


def check_environment(facts: Mapping[int, HostFacts]) -> Check:
    """The same result-changing environment variables everywhere."""
    tables = {rank: f.environment for rank, f in facts.items()}
    differing = differences(tables, hosts_of(facts))
    if differing:
        return Check("environment", Status.FAIL, some(differing), "set the variable to one value on every host")
    return Check("environment", Status.PASS, f"{len(tables[min(tables)])} variables equal, hash {fingerprint(tables)}")


def differences(tables: Mapping[int, Mapping[str, str]], hosts: Mapping[int, str]) -> list[str]:
    """One line per key that is not equal everywhere: the value, the ranks that have another, and theirs."""
    lines = []
    for key in sorted({key for table in tables.values() for key in table}):
        common, odd = odd_ones({rank: table.get(key) for rank, table in tables.items()})
        for value in sorted({str(v) for v in odd.values()}):
            ranks = [rank for rank, v in odd.items() if str(v) == value]
            lines.append(f"{key}: {name_ranks(ranks, hosts)} has {_shown(odd[ranks[0]])}, others {_shown(common)}")
    return lines


def fingerprint(tables: Mapping[int, Mapping[str, str]]) -> str:
    """12 hex digits of the lowest rank's table: equal ones can be compared across runs by eye."""
    text = json.dumps(tables[min(tables)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def hosts_of(facts: Mapping[int, HostFacts]) -> dict[int, str]:
    """The host of every rank that answered."""
    return {rank: f.host for rank, f in facts.items()}


def _shown(value: str | None) -> str:
    return "nothing" if value is None else value
