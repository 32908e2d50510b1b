"""From what the ranks said to the rows of the table, in the order they are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from biggan.config import Config
from biggan.doctor import dataset_checks, disk_checks, machine_checks, network_checks, rank_agreement
from biggan.doctor.check import Check
from biggan.doctor.dataset_checks import DataFacts
from biggan.doctor.disk_checks import FolderFacts
from biggan.doctor.host import HostFacts
from biggan.doctor.network import NetworkFacts
from biggan.doctor.network_checks import Lost


@dataclass
class Findings:
    """What the ranks said, by rank. None was not asked for; empty was not reached."""

    world_size: int
    hosts: dict[int, HostFacts] = field(default_factory=dict)
    data: dict[int, DataFacts] | None = None
    checksums: dict[int, list[str]] | None = None
    folder: FolderFacts | None = None
    checkpoint_bytes: int = 0
    """Of one checkpoint; 0 without CONFIG."""
    folder_seen: dict[int, bool] | None = None
    network: dict[int, NetworkFacts] | None = None
    lost: Lost | None = None


def judge(found: Findings, config: Config | None) -> list[Check]:
    """Every row; those that were not asked for or not reached say so."""
    hosts = network_checks.known_hosts(found.hosts, found.world_size)
    return [
        network_checks.check_rendezvous(found.hosts, found.world_size, found.lost),
        network_checks.check_addresses(found.hosts),
        rank_agreement.check_versions(found.hosts),
        rank_agreement.check_config(found.hosts),
        rank_agreement.check_environment(found.hosts),
        machine_checks.check_devices(found.hosts),
        machine_checks.check_cores(found.hosts, config),
        machine_checks.check_shared_memory(found.hosts),
        machine_checks.check_open_files(found.hosts, found.world_size),
        *dataset_checks.check_data(found.data, hosts),
        dataset_checks.check_checksums(found.checksums, hosts),
        *disk_checks.check_folder(found.folder, found.folder_seen, config, found.checkpoint_bytes, hosts),
        *network_checks.check_collectives(found.network, hosts),
        network_checks.check_clocks(found.network, hosts),
        network_checks.check_links(found.network, hosts),
        network_checks.check_stragglers(found.network, hosts),
    ]
