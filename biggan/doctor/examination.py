"""The examination: what is asked in which order, and how it ends when a rank falls silent."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from biggan.data.dataset import Shard
from biggan.distributed.process import world_size_from_environment
from biggan.doctor import dataset_checks, disk_checks
from biggan.doctor.board import Board, within
from biggan.doctor.check import Check, Status
from biggan.doctor.check_table import print_table, write_json
from biggan.doctor.dataset_checks import DataFacts
from biggan.doctor.disk_checks import FolderFacts
from biggan.doctor.findings import Findings, judge
from biggan.doctor.host import HostFacts, look_around, resolved
from biggan.doctor.network import NetworkFacts, measure, slowest
from biggan.doctor.network_checks import Lost
from biggan.errors import EXIT_BAD_INPUT, InputError, StoppedRun
from biggan.startup import checks

T = TypeVar("T")
ROLL_CALL = "the roll call"
DATA = "looking at the data set"
SHARDS = "reading shards, round"
FOLDER = "looking at the run folder"
FOLDER_SEEN = "looking for rank 0's file in the run folder"
COLLECTIVES = "collectives"


@dataclass(frozen=True)
class ExaminationRequest:
    """What the command was asked to look at. Silence of `timeout_seconds` in all ends it."""

    preset: Path | None
    overrides: Sequence[str]
    data: str | None
    run_dir: Path | None
    checksums: bool
    json_file: Path | None
    timeout_seconds: int


class SilenceError(Exception):
    """Some ranks did not answer; the findings say which."""


def examine(request: ExaminationRequest) -> int:
    """Look at everything, together with the other ranks; rank 0 prints. Returns the exit code, equal on all ranks.

    Raises InputError on a rank that cannot reach the others' store.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), world_size_from_environment()
    examination = Examination(request, Board(rank, world_size, request.timeout_seconds / 2))
    with suppress(SilenceError):
        examination.run()
    return examination.conclude()


class Examination:
    """One rank's part in it.

    A local or collective piece of work may be silent for a quarter of the timeout, the answers of the other
    ranks take up to half of it, and the store itself the last quarter: so the whole bears the timeout's name.
    """

    def __init__(self, request: ExaminationRequest, board: Board):
        self.request, self.board = request, board
        self.patience_seconds = request.timeout_seconds / 4
        self.config, self.config_error = resolved(request.preset, request.overrides, board.world_size)
        if self.config_error and board.world_size == 1:
            raise InputError(self.config_error)
        self.data_path = request.data or (self.config.data.path if self.config is not None else "")
        self.run_dir = request.run_dir or (self.config.run.dir if self.config is not None else None)
        self.findings = Findings(
            world_size=board.world_size,
            data={} if self.data_path else None,
            checksums={} if self.data_path and request.checksums else None,
            folder=FolderFacts(folder=str(self.run_dir)) if self.run_dir is not None else None,
            network={} if board.world_size > 1 else None,
        )
        self._own_folder: FolderFacts | None = None
        self._wrote: dict[str, list[int]] = {}
        """Who has written on each topic that was reached."""

    def run(self) -> None:
        """Everything, in order; raises SilenceError as soon as a rank is missing."""
        self._exchange(ROLL_CALL, look_around(self.config, self.config_error).model_dump_json())
        several = self.board.world_size > 1
        leaders = json.loads(self._decided("naming each host's first rank", self._leaders)) if several else []
        try:
            self._data()
            self._folder()
        finally:
            if self._own_folder is not None:
                disk_checks.clean_up(self._own_folder)
        if several:
            self._network(leaders)

    def _exchange(self, topic: str, text: str) -> None:
        """Write for the rank that will judge; raises SilenceError if anybody has not."""
        self._wrote[topic] = self.board.exchange(topic, text)
        missing = tuple(sorted(set(range(self.board.world_size)) - set(self._wrote[topic])))
        if missing:
            self.findings.lost = Lost(missing, topic)
            raise SilenceError

    def _read(self, topic: str, facts: Callable[[str], T]) -> dict[int, T]:
        """What all wrote on `topic`, as facts; nothing if it was not reached."""
        ranks = self._wrote.get(topic)
        return {rank: facts(text) for rank, text in self.board.read(topic, ranks).items()} if ranks else {}

    def _decided(self, topic: str, decide: Callable[[], str]) -> str:
        """What rank 0 decides on what all said, in few words: it alone reads them."""
        self._exchange(topic, decide() if self.board.rank == 0 else "")
        return self.board.read(topic, [0])[0]

    def _data(self) -> None:
        """The data set, as every rank sees it."""
        path = self.data_path
        shards: Sequence[Shard] = ()
        facts = DataFacts(error="no --data and no CONFIG that can be read")
        if path:
            try:
                facts, shards = within(
                    self.patience_seconds, lambda pulse: dataset_checks.look_at_data(path, self.config, pulse)
                )
            except TimeoutError as error:
                facts = DataFacts(error=f"{error} (a dead file system?)")
        if self.request.checksums:
            facts.shards_to_read = len(shards)
        self._exchange(DATA, facts.model_dump_json())

        def most() -> str:
            return str(max(f.shards_to_read for f in self._read(DATA, DataFacts.model_validate_json).values()))

        # What all do next follows from what all said: a rank that was given other arguments must not part from them.
        to_read = int(self._decided("counting the shards to read", most))
        for number in range(math.ceil(to_read / self.board.world_size)):
            # One shard per rank and round: a round is short, so that silence is seen.
            mine = number * self.board.world_size + self.board.rank
            trouble = self._checksum(Path(path), shards[mine]) if mine < len(shards) else None
            self._exchange(f"{SHARDS} {number + 1}", trouble or "")

    def _checksum(self, folder: Path, shard: Shard) -> str | None:
        try:
            return within(self.patience_seconds, lambda _: dataset_checks.checksum_trouble(folder, shard))
        except TimeoutError:
            return f"{folder / shard.name}: not read in {self.patience_seconds:g} s"

    def _folder(self) -> None:
        """The run folder: its room on rank 0, and whether the others see it."""
        folder = self.run_dir
        own = FolderFacts(folder="")
        if folder is not None and self.board.rank == 0:
            own = self._own_folder = within_or(
                self.patience_seconds,
                lambda: disk_checks.look_at_folder(folder),
                lambda reason: FolderFacts(folder=str(folder), parent=str(folder), error=reason),
            )
            self.findings.checkpoint_bytes = checks.checkpoint_bytes(self.config.model) if self.config else 0
        facts = FolderFacts.model_validate_json(self._decided(FOLDER, own.model_dump_json))
        if facts.folder:
            self.findings.folder = facts
            seen = within_or(self.patience_seconds, lambda: disk_checks.sees(facts), lambda _: False)
            self._exchange(FOLDER_SEEN, str(seen))

    def _network(self, leaders: list[int]) -> None:
        """The collectives, last: a hang there must not hide what else is wrong."""
        facts = NetworkFacts()
        try:
            within(self.patience_seconds, lambda pulse: measure(facts, leaders, self.request.timeout_seconds, pulse))
        except (StoppedRun, RuntimeError, ValueError, TimeoutError) as error:
            facts.error = str(error).strip().split("\n")[0]
        self._exchange(COLLECTIVES, facts.model_dump_json())

    def _leaders(self) -> str:
        hosts = self._read(ROLL_CALL, HostFacts.model_validate_json)
        return json.dumps(sorted({f.host: rank for rank, f in sorted(hosts.items(), reverse=True)}.values()))

    def _hear_all(self) -> None:
        """Read, for the judgement, what all wrote."""
        found = self.findings
        found.hosts = self._read(ROLL_CALL, HostFacts.model_validate_json)
        if found.data is not None:
            found.data = self._read(DATA, DataFacts.model_validate_json)
        rounds = [topic for topic in self._wrote if topic.startswith(SHARDS)]
        if rounds and FOLDER in self._wrote:  # which comes after the last round
            read = [self._read(topic, str) for topic in rounds]
            found.checksums = {rank: [r[rank] for r in read if r[rank]] for rank in read[0]}
        if found.folder is not None and self.config is not None:
            found.checkpoint_bytes = checks.checkpoint_bytes(self.config.model)
        if FOLDER_SEEN in self._wrote:
            found.folder_seen = self._read(FOLDER_SEEN, lambda text: text == "True")
        if found.network is not None:
            found.network = self._read(COLLECTIVES, NetworkFacts.model_validate_json)

    def conclude(self) -> int:
        """Rank 0 (or the first that still answers) judges, prints and tells the others the exit code."""
        lost = self.findings.lost.ranks if self.findings.lost is not None else ()
        alive = [rank for rank in range(self.board.world_size) if rank not in lost]
        if self.board.rank != alive[0]:
            heard = self.board.hear()
            return EXIT_BAD_INPUT if heard is None else heard
        self._hear_all()
        checks = judge(self.findings, self.config)
        code = EXIT_BAD_INPUT if any(check.status is Status.FAIL for check in checks) else 0
        try:
            print_table(checks, self.board.world_size)
            self._write_json(checks)
        finally:
            self.board.announce(code, len(alive) - 1)
        return code

    def _write_json(self, checks: Sequence[Check]) -> None:
        if self.request.json_file is None:
            return
        found = self.findings
        network = found.network or {}
        write_json(
            self.request.json_file,
            checks,
            world_size=found.world_size,
            hosts=list(dict.fromkeys(f.host for _, f in sorted(found.hosts.items()))),
            backend=network[min(network)].backend if network else "",
            collectives=slowest(network),
        )


def within_or(seconds: float, work: Callable[[], T], instead: Callable[[str], T]) -> T:
    """What `work` returns, or `instead` of the reason if it does not end in time."""
    try:
        return within(seconds, lambda _: work())
    except TimeoutError:
        return instead(f"no answer from the file system in {seconds:g} s")
