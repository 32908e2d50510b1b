"""From what the ranks said to the rows of the table, in the order they are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from biggan.config import Config
from biggan.doctor import agreement, contact, dataset, disk, machine
from biggan.doctor.check import Check
from biggan.doctor.contact import Lost
from biggan.doctor.dataset import DataFacts
from biggan.doctor.disk import FolderFacts
from biggan.doctor.host import HostFacts
from biggan.doctor.network import NetworkFacts


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
    hosts = contact.known_hosts(found.hosts, found.world_size)
    return [
        contact.check_rendezvous(found.hosts, found.world_size, found.lost),
        contact.check_addresses(found.hosts),
        agreement.check_versions(found.hosts),
        agreement.check_config(found.hosts),
        agreement.check_environment(found.hosts),
        machine.check_devices(found.hosts),
        machine.check_cores(found.hosts, config),
        machine.check_shared_memory(found.hosts),
        machine.check_open_files(found.hosts, found.world_size),
        *dataset.check_data(found.data, hosts),
        dataset.check_checksums(found.checksums, hosts),
        *disk.check_folder(found.folder, found.folder_seen, config, found.checkpoint_bytes, hosts),
        *contact.check_collectives(found.network, hosts),
        contact.check_clocks(found.network, hosts),
        contact.check_links(found.network, hosts),
        contact.check_stragglers(found.network, hosts),
    ]
