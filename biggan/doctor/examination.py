"""The examination: its steps in order, and its end when a rank stops answering."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from biggan.data.dataset import Shard
from biggan.data.verification import checksum_problem
from biggan.distributed.environment import check_rendezvous, global_rank, world_size_from_environment
from biggan.doctor import dataset_checks, disk_checks
from biggan.doctor.check import Status
from biggan.doctor.check_table import Findings, print_table, table_rows, write_json
from biggan.doctor.dataset_checks import DataFacts
from biggan.doctor.disk_checks import FolderFacts
from biggan.doctor.host import HostFacts, collect_host_facts, try_resolve
from biggan.doctor.network import NetworkFacts, measure
from biggan.doctor.network_checks import SilentRanks
from biggan.doctor.rank_store import RankStore, run_while_progressing
from biggan.errors import EXIT_BAD_INPUT, InputError, StoppedRun
from biggan.startup.checks import checkpoint_bytes

T = TypeVar("T")
HOSTS = "exchanging host facts"
DATA = "checking the data set"
SHARDS = "reading shards, round"
FOLDER = "checking the run folder"
TOKEN = "reading rank 0's file in the run folder"
COLLECTIVES = "measuring collectives"


@dataclass(frozen=True)
class ExaminationRequest:
    """Arguments of the command. The examination ends after a total silence of `timeout_seconds`."""

    preset: Path | None
    overrides: Sequence[str]
    data: str | None
    run_dir: Path | None
    checksums: bool
    json_file: Path | None
    timeout_seconds: int


class SilentRankError(Exception):
    """Some ranks did not answer. The findings name them."""


def examine(request: ExaminationRequest) -> int:
    """Run all checks together with the other ranks; rank 0 prints. Return the exit code, equal on all ranks.

    Raises InputError on a rank that cannot reach the others' store.
    """
    world_size = world_size_from_environment()
    check_rendezvous(world_size)
    examination = Examination(request, RankStore(global_rank(), world_size, request.timeout_seconds / 2))
    with suppress(SilentRankError):
        examination.run()
    return examination.conclude()


class Examination:
    """One rank's part of the examination.

    Local and collective work may be silent for a quarter of the timeout, the answers of the other ranks may take half
    of it, and the store the last quarter. Together these are the timeout.
    """

    def __init__(self, request: ExaminationRequest, store: RankStore):
        self.request, self.store = request, store
        self.work_timeout_seconds = request.timeout_seconds / 4
        self.config, self.config_error = try_resolve(request.preset, request.overrides, store.world_size)
        if self.config_error and store.world_size == 1:
            raise InputError(self.config_error)
        self.data_path = request.data or (self.config.data.path if self.config is not None else "")
        self.run_dir = request.run_dir or (self.config.run.dir if self.config is not None else None)
        self.findings = Findings(
            world_size=store.world_size,
            data={} if self.data_path else None,
            checksums={} if self.data_path and request.checksums else None,
            folder=FolderFacts(folder=str(self.run_dir)) if self.run_dir is not None else None,
            network={} if store.world_size > 1 else None,
        )
        self._own_folder: FolderFacts | None = None
        self._written: dict[str, list[int]] = {}
        """Ranks that have written, for each topic that was reached."""

    def run(self) -> None:
        """Run all steps in order. Raises SilentRankError as soon as a rank is missing."""
        self._exchange(HOSTS, collect_host_facts(self.config, self.config_error).model_dump_json())
        several = self.store.world_size > 1
        leaders = json.loads(self._rank0_decision("naming each host's first rank", self._leaders)) if several else []
        try:
            self._examine_dataset()
            self._examine_folder()
        finally:
            if self._own_folder is not None:
                disk_checks.remove_token(self._own_folder)
        if several:
            self._examine_network(leaders)

    def _exchange(self, topic: str, text: str) -> None:
        """Write `text` for the rank that will print the table. Raises SilentRankError if a rank has not written."""
        self._written[topic] = self.store.exchange(topic, text)
        missing = tuple(sorted(set(range(self.store.world_size)) - set(self._written[topic])))
        if missing:
            self.findings.silent = SilentRanks(missing, topic)
            raise SilentRankError

    def _read(self, topic: str, parse: Callable[[str], T]) -> dict[int, T]:
        """Return the parsed texts of all ranks under `topic`, or nothing if the topic was not reached."""
        ranks = self._written.get(topic)
        return {rank: parse(text) for rank, text in self.store.read(topic, ranks).items()} if ranks else {}

    def _rank0_decision(self, topic: str, decide: Callable[[], str]) -> str:
        """Let rank 0, which alone reads all texts, decide. Return its short answer on every rank."""
        self._exchange(topic, decide() if self.store.rank == 0 else "")
        return self.store.read(topic, [0])[0]

    def _examine_dataset(self) -> None:
        """Examine the data set on every rank."""
        path = self.data_path
        shards: Sequence[tuple[Path, Shard]] = ()
        facts = DataFacts(error="no --data and no CONFIG that can be read")
        if path:
            try:
                facts, shards = run_while_progressing(
                    self.work_timeout_seconds,
                    lambda heartbeat: dataset_checks.inspect_dataset(path, self.config, heartbeat),
                )
            except TimeoutError as error:
                facts = DataFacts(error=f"{error} (a dead file system?)")
        if self.request.checksums:
            facts.shards_to_read = len(shards)
        self._exchange(DATA, facts.model_dump_json())

        def largest_count() -> str:
            return str(max(f.shards_to_read for f in self._read(DATA, DataFacts.model_validate_json).values()))

        # The number of rounds is common to all ranks: one with other arguments must take part in the same exchanges.
        to_read = int(self._rank0_decision("counting the shards to read", largest_count))
        for number in range(math.ceil(to_read / self.store.world_size)):
            # One shard per rank and round keeps a round short, so that a silent rank is noticed.
            index = number * self.store.world_size + self.store.rank
            problem = self._checksum(*shards[index]) if index < len(shards) else None
            self._exchange(f"{SHARDS} {number + 1}", problem or "")

    def _checksum(self, file: Path, shard: Shard) -> str | None:
        try:
            return run_while_progressing(self.work_timeout_seconds, lambda _: checksum_problem(file, shard))
        except TimeoutError:
            return f"{file}: not read in {self.work_timeout_seconds:g} s"

    def _examine_folder(self) -> None:
        """Measure the run folder's room on rank 0, and check that the other ranks see the same folder."""
        folder = self.run_dir
        own = FolderFacts(folder="")
        if folder is not None and self.store.rank == 0:
            own = self._own_folder = run_or_default(
                self.work_timeout_seconds,
                lambda: disk_checks.inspect_folder(folder),
                lambda reason: FolderFacts(folder=str(folder), parent=str(folder), error=reason),
            )
            self.findings.checkpoint_bytes = checkpoint_bytes(self.config.model) if self.config else 0
        facts = FolderFacts.model_validate_json(self._rank0_decision(FOLDER, own.model_dump_json))
        if facts.folder:
            self.findings.folder = facts
            can_read = run_or_default(
                self.work_timeout_seconds, lambda: disk_checks.can_read_token(facts), lambda _: False
            )
            self._exchange(TOKEN, str(can_read))

    def _examine_network(self, leaders: list[int]) -> None:
        """Measure the collectives. This comes last: a hang here must not hide other problems."""
        facts = NetworkFacts()
        try:
            run_while_progressing(
                self.work_timeout_seconds,
                lambda heartbeat: measure(facts, leaders, self.request.timeout_seconds, heartbeat),
            )
        except (StoppedRun, RuntimeError, ValueError, TimeoutError) as error:
            facts.error = str(error).strip().split("\n")[0]
        self._exchange(COLLECTIVES, facts.model_dump_json())

    def _leaders(self) -> str:
        """Return the first rank of each host, ascending, as JSON."""
        hosts = self._read(HOSTS, HostFacts.model_validate_json)
        return json.dumps(sorted({f.host: rank for rank, f in sorted(hosts.items(), reverse=True)}.values()))

    def _read_all(self) -> None:
        """Read the texts of all ranks into the findings."""
        found = self.findings
        found.hosts = self._read(HOSTS, HostFacts.model_validate_json)
        if found.data is not None:
            found.data = self._read(DATA, DataFacts.model_validate_json)
        rounds = [topic for topic in self._written if topic.startswith(SHARDS)]
        if rounds and FOLDER in self._written:  # FOLDER comes after the last round
            read = [self._read(topic, str) for topic in rounds]
            found.checksums = {rank: [r[rank] for r in read if r[rank]] for rank in read[0]}
        if found.folder is not None and self.config is not None:
            found.checkpoint_bytes = checkpoint_bytes(self.config.model)
        if TOKEN in self._written:
            found.token_read = self._read(TOKEN, lambda text: text == "True")
        if found.network is not None:
            found.network = self._read(COLLECTIVES, NetworkFacts.model_validate_json)

    def conclude(self) -> int:
        """Print the table on rank 0 (or the first rank that still answers). Return the exit code on every rank."""
        silent = self.findings.silent.ranks if self.findings.silent is not None else ()
        alive = [rank for rank in range(self.store.world_size) if rank not in silent]
        if self.store.rank != alive[0]:
            received = self.store.receive_exit_code()
            return EXIT_BAD_INPUT if received is None else received
        self._read_all()
        checks = table_rows(self.findings, self.config)
        code = EXIT_BAD_INPUT if any(check.status is Status.FAIL for check in checks) else 0
        try:
            print_table(checks, self.store.world_size)
            if self.request.json_file is not None:
                write_json(self.request.json_file, checks, self.findings)
        finally:
            self.store.announce_exit_code(code, len(alive) - 1)
        return code


def run_or_default(seconds: float, work: Callable[[], T], default: Callable[[str], T]) -> T:
    """Return what `work` returns, or `default(reason)` if it does not finish in `seconds`."""
    try:
        return run_while_progressing(seconds, lambda _: work())
    except TimeoutError:
        return default(f"no answer from the file system in {seconds:g} s")
