"""The doctor's checks on planted facts: pure functions, no processes."""

from pathlib import Path

import pytest
from runs import TINY, biggan

from biggan.config.preset import resolve
from biggan.doctor import dataset_checks, disk_checks, host_checks, network_checks
from biggan.doctor.check import Status, name_ranks, outliers
from biggan.doctor.check_table import Findings, table_rows
from biggan.doctor.dataset_checks import DataFacts
from biggan.doctor.disk_checks import FolderFacts
from biggan.doctor.host import Address, Gpu, HostFacts, driver_version, result_changing, source_checksum
from biggan.doctor.network import Clock, CollectiveTiming, LinkTiming, NetworkFacts, slowest_timings
from biggan.doctor.network_checks import SilentRanks
from biggan.startup import checks

GIB = 2**30


def fact(rank, **changes):
    """Return healthy facts of rank `rank` on CPU, on hosts a, b, ... with two processes each."""
    healthy = {
        "host": "abcdefgh"[rank // 2],
        "address": Address(interface="eth0", address=f"10.0.0.{rank // 2 + 1}"),
        "local_rank": rank % 2,
        "local_world_size": 2,
        "versions": {"torch": "2.14.1", "deepspeed": "none"},
        "config": {"run.seed": "0", "optimizer.g_lr": "0.1"},
        "config_error": "",
        "environment": {"OMP_NUM_THREADS": "4"},
        "gpus": 0,
        "gpu": None,
        "cores": 8,
        "threads": 4,
        "shared_memory_free_bytes": 8 * GIB,
        "open_files_limit": 1024,
    }
    return HostFacts(**(healthy | changes))


def four(**rank_3_changes):
    return {rank: fact(rank, **(rank_3_changes if rank == 3 else {})) for rank in range(4)}


def gpus(**rank_3_changes):
    card = {"gpus": 2, "gpu": Gpu(name="H100", free_bytes=79 * GIB, total_bytes=80 * GIB)}
    return {rank: fact(rank, **(card | (rank_3_changes if rank == 3 else {}))) for rank in range(4)}


HOSTS = {0: "a", 1: "a", 2: "b", 3: "b"}


def expect(check, status, *texts):
    assert check.status == status, check
    for text in texts:
        assert text in check.observed, check
    assert check.fix or status in (Status.PASS, Status.NOT_CHECKED)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    return resolve(tmp_path / "tiny.yaml", [f"run.dir={tmp_path / 'run'}", "data.path=nowhere"])


def test_ranks_are_grouped_by_host():
    assert name_ranks([3], HOSTS) == "rank 3 (host b)"
    assert name_ranks([3, 1, 0], HOSTS) == "ranks 0, 1 (host a), 3 (host b)"
    assert name_ranks(range(12), {}) == "ranks 0, 1, 2, 3, 4, 5, 6, 7 (host unknown) and 4 more"
    assert outliers({0: "x", 1: "y"}) == ("x", {1: "y"})
    assert outliers({0: "x", 1: "y", 2: "y"}) == ("y", {0: "x"})


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (a@)", "580.159.04"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54  Tue Jun  6\nGCC version:  gcc 12.1.0", "535.54"),
        ("a driver of words\n", "a driver of words"),
    ],
)
def test_driver_version_is_extracted_from_text(text, version):
    assert driver_version(text) == version


def test_versions_config_and_environment_must_agree():
    healthy = four()
    expect(host_checks.check_versions(healthy), Status.PASS, "torch 2.14.1")
    expect(host_checks.check_config(healthy), Status.PASS, "2 keys equal")
    expect(host_checks.check_environment(healthy), Status.PASS)
    odd = four(
        versions={"torch": "2.13.0", "deepspeed": "0.19"},
        config={"run.seed": "1", "optimizer.g_lr": "0.1"},
        environment={},
    )
    expect(
        host_checks.check_versions(odd),
        Status.FAIL,
        "torch: rank 3 (host b) has 2.13.0, others 2.14.1",
        "deepspeed: rank 3 (host b) has 0.19, others none",
    )
    check = host_checks.check_config(odd)
    expect(check, Status.FAIL, "run.seed: rank 3 (host b) has 1, others 0")
    assert "optimizer" not in check.observed
    expect(host_checks.check_environment(odd), Status.FAIL, "OMP_NUM_THREADS: rank 3 (host b) has nothing, others 4")
    expect(host_checks.check_config(four(config=None, config_error="x: no")), Status.FAIL, "rank 3 (host b): x: no")
    expect(host_checks.check_config(four(config=None)), Status.FAIL, "rank 3 (host b): no CONFIG")
    everywhere = {rank: fact(rank, config=None, config_error="x: no") for rank in range(2)}
    assert host_checks.check_config(everywhere).observed == "x: no"


def test_result_changing_variables_are_selected():
    changing = {"OMP_NUM_THREADS": "1", "NCCL_ALGO": "Ring", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    harmless = {"NCCL_SOCKET_IFNAME": "eth0", "HOME": "/root", "TORCHELASTIC_RUN_ID": "x", "RANK": "1"}
    assert result_changing(changing | harmless) == dict(sorted(changing.items()))


def test_source_checksum_depends_on_names_and_contents(tmp_path):
    (tmp_path / "a.py").write_text("x")
    first = source_checksum(tmp_path)
    (tmp_path / "a.txt").write_text("y")
    assert source_checksum(tmp_path) == first
    (tmp_path / "a.py").write_text("y")
    second = source_checksum(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, source_checksum(tmp_path)}) == 3


def test_check_devices():
    expect(host_checks.check_devices(four()), Status.PASS, "CPU")
    expect(host_checks.check_devices(gpus()), Status.PASS, "4 x H100, 80 GiB")
    expect(host_checks.check_devices(gpus(gpus=0, gpu=None)), Status.FAIL, "rank 3 (host b): CPU, others GPU")
    expect(host_checks.check_devices(gpus(gpus=1, gpu=None)), Status.FAIL, "rank 3 (host b): no GPU")
    small = Gpu(name="H100", free_bytes=40 * GIB, total_bytes=80 * GIB)
    expect(host_checks.check_devices(gpus(gpu=small)), Status.WARN, "rank 3 (host b): only 40.0 GiB")
    other = Gpu(name="A100", free_bytes=40 * GIB, total_bytes=40 * GIB)
    expect(host_checks.check_devices(gpus(gpu=other)), Status.WARN, "A100, 40 GiB, others H100, 80 GiB")
    expect(host_checks.check_devices(gpus(gpus=3)), Status.WARN, "b: 1 GPUs without a process")


def test_check_cores(config):
    expect(host_checks.check_cores(four(), config), Status.PASS, "a: 2 processes of 4 threads and 1 readers on 8 cores")
    expect(host_checks.check_cores(four(threads=8), config), Status.WARN, "b: ")
    expect(host_checks.check_cores(gpus(cores=2, threads=1), None), Status.PASS)
    expect(
        host_checks.check_cores(gpus(cores=2, threads=1), config),
        Status.WARN,
        "b: 2 processes of 1 threads and 1 readers",
    )
    expect(
        host_checks.check_cores(gpus(cores=1, threads=1), None), Status.WARN, "on 1 cores"
    )  # one core of a node of GPUs


def test_check_shared_memory_and_open_files():
    expect(host_checks.check_shared_memory(gpus()), Status.PASS, "8,192 MiB")
    container = "b: 64 MiB free in /dev/shm"
    expect(host_checks.check_shared_memory(gpus(shared_memory_free_bytes=64 * 2**20)), Status.WARN, container)
    expect(host_checks.check_shared_memory(four(shared_memory_free_bytes=64 * 2**20)), Status.PASS, "not needed")
    alone = gpus() | {3: fact(3, host="c", local_world_size=1, gpus=1, shared_memory_free_bytes=64 * 2**20)}
    expect(host_checks.check_shared_memory(alone), Status.PASS, "8,192 MiB")
    expect(host_checks.check_open_files(four(), 4), Status.PASS)
    expect(host_checks.check_open_files(four(open_files_limit=100), 4), Status.FAIL, "b: limit 100")
    expect(host_checks.check_open_files(four(), 2048), Status.FAIL, "2048 process(es)")


def test_check_data_and_checksums():
    complete = DataFacts(digest="d1", shards=12, bytes=10**9)
    healthy = dict.fromkeys(range(4), complete)
    assert [c.status for c in dataset_checks.check_data(healthy, HOSTS)] == [Status.PASS, Status.PASS]
    lacking = healthy | {3: DataFacts(digest="d1", shards=12, problems=["/d/x.tar is missing"], more_problems=2)}
    expect(
        dataset_checks.check_data(lacking, HOSTS)[1], Status.FAIL, "rank 3 (host b): /d/x.tar is missing; and 2 more"
    )
    both = healthy | dict.fromkeys((2, 3), lacking[3])
    expect(
        dataset_checks.check_data(both, HOSTS)[1], Status.FAIL, "ranks 2, 3 (host b): /d/x.tar is missing; and 4 more"
    )
    expect(dataset_checks.check_data(healthy | {3: DataFacts(digest="d2")}, HOSTS)[0], Status.FAIL, "(d2, others d1)")
    unread = dict.fromkeys(range(4), DataFacts(error="/d: no"))
    rows = dataset_checks.check_data(unread, HOSTS)
    expect(rows[0], Status.FAIL, "ranks 0, 1 (host a), 2, 3 (host b): /d: no")
    expect(rows[1], Status.NOT_CHECKED)
    expect(dataset_checks.check_data(healthy | {3: unread[3]}, HOSTS)[0], Status.FAIL, "rank 3 (host b): /d: no")
    wrong = dict.fromkeys(range(4), DataFacts(digest="d1", untrainable="model.classes: 3, but"))
    expect(dataset_checks.check_data(wrong, HOSTS)[0], Status.FAIL, "model.classes: 3, but")
    expect(
        dataset_checks.check_data({0: DataFacts(digest="d", remote=True)}, HOSTS)[1], Status.NOT_CHECKED, "behind a URL"
    )
    assert {c.status for facts in (None, {}) for c in dataset_checks.check_data(facts, HOSTS)} == {Status.NOT_CHECKED}
    expect(dataset_checks.check_checksums({0: [], 3: ["x.tar: no"]}, HOSTS), Status.FAIL, "rank 3 (host b): x.tar: no")
    expect(dataset_checks.check_checksums({0: [], 3: []}, HOSTS), Status.PASS)


def test_checkpoint_size_matches_the_estimate(tiny, tmp_path):
    biggan(["train", *tiny, "training.steps=1", "model.channels=16"])
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    written = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    config = resolve(Path(tiny[0]), [*tiny[1:], "model.channels=16"])
    assert checks.checkpoint_bytes(config.model) == pytest.approx(written, rel=0.05)  # bytes: headers of the files


def test_disk_room_covers_the_ring(config):
    def keeping(steps=6, **changes):
        training = config.training.model_copy(update={"steps": steps})
        keep = config.checkpoint.model_copy(update={"every_steps": 1, "horizon_steps": 0} | changes)
        return config.model_copy(update={"training": training, "checkpoint": keep})

    # the ring, 4 pinned by an alarm, 1 being written, 5 permanent
    assert disk_checks.checkpoint_ring_bytes(keeping(100, keep_last=3, keep_every_steps=20), 10) == 10 * (3 + 4 + 1 + 5)
    # the 10 newest; of those 10 to 40 steps old, two for each doubling and one more at either end
    assert disk_checks.checkpoint_ring_bytes(keeping(100, keep_last=10, horizon_steps=39), 10) == 10 * (10 + 6 + 4 + 1)
    # the run writes no more
    assert disk_checks.checkpoint_ring_bytes(keeping(keep_last=3, keep_every_steps=2), 10) == 10 * 7
    assert disk_checks.checkpoint_ring_bytes(keeping(keep_last=3, max_gib=60 / GIB), 10) == 60
    config = keeping(keep_last=3, keep_every_steps=2)

    def room(**changes):
        facts = FolderFacts(**({"folder": "/r", "parent": "/", "free_bytes": 70} | changes))
        return disk_checks.check_folder(facts, dict.fromkeys(range(4), True), config, 10, HOSTS)[0]

    expect(room(), Status.PASS)
    expect(room(free_bytes=69), Status.FAIL, "/r: ")
    expect(room(free_bytes=69, held_bytes=1), Status.PASS)
    expect(room(error="/: cannot be written"), Status.FAIL, "cannot be written")
    folder = FolderFacts(folder="/r", parent="/", free_bytes=70)
    for limit, status in ((19, Status.FAIL), (20, Status.PASS)):  # the newest and the next one
        limited = keeping(max_gib=limit / GIB)
        assert disk_checks.check_folder(folder, None, limited, 10, HOSTS)[0].status == status
    unable = disk_checks.check_folder(folder, {0: True, 3: False}, config, 10, HOSTS)[1]
    expect(unable, Status.FAIL, "rank 3 (host b)", "rank 0", "to /")
    rows = [
        *disk_checks.check_folder(None, None, None, 0, HOSTS),
        *disk_checks.check_folder(FolderFacts(folder="/"), None, None, 0, {}),
    ]
    assert {c.status for c in rows} == {Status.NOT_CHECKED}


def test_rendezvous_names_missing_ranks_and_their_hosts():
    expect(
        network_checks.check_rendezvous(four(), 4, None), Status.PASS, "a 10.0.0.1 (eth0) x 2; b 10.0.0.2 (eth0) x 2"
    )
    three = {rank: f for rank, f in four().items() if rank != 3}
    check = network_checks.check_rendezvous(three, 6, SilentRanks((3, 4, 5), "counting"))
    expect(check, Status.FAIL, "ranks 3 (host b), 4, 5 (host unknown)", "counting", "3 of 6")


def test_check_addresses():
    expect(network_checks.check_addresses(four()), Status.PASS, "eth0")
    loopback = Address(interface="lo", address="127.0.1.1")
    expect(network_checks.check_addresses(four(address=loopback)), Status.FAIL, "rank 3 (host b)", "127.0.1.1")
    expect(network_checks.check_addresses({0: fact(0, address=loopback)}), Status.PASS)
    absent = Address(interface="ib0", address="", error="GLOO_SOCKET_IFNAME=ib0, but")
    expect(network_checks.check_addresses(four(address=absent)), Status.FAIL, "rank 3 (host b): GLOO_SOCKET_IFNAME=ib0")


def measured(rank, **changes):
    collectives = [
        CollectiveTiming(operation="all_reduce", bytes=2**20, seconds=0.001 * (rank + 1)),
        CollectiveTiming(operation="all_gather", bytes=4096, seconds=0.001),
    ]
    return NetworkFacts(**({"backend": "gloo", "collectives": collectives, "matmul_seconds": 1.0} | changes))


def network(**rank_3_changes):
    return {rank: measured(rank, **(rank_3_changes if rank == 3 else {})) for rank in range(4)}


def test_check_collectives():
    assert [c.seconds for c in slowest_timings(network())] == [0.004, 0.001]
    reduce, gather = network_checks.check_collectives(network(), HOSTS)
    expect(reduce, Status.PASS, "1 MiB 4 ms (0.39 GB/s)")  # 2 x 3/4 x 1 MiB in 4 ms
    expect(gather, Status.PASS, "4 KiB 1 ms")
    reduce, gather = network_checks.check_collectives(network(wrong=["all_reduce of bfloat16"]), HOSTS)
    expect(reduce, Status.FAIL, "rank 3 (host b): all_reduce of bfloat16")
    expect(gather, Status.PASS)
    reduce, gather = network_checks.check_collectives(network(error="joining: no"), HOSTS)
    expect(reduce, Status.FAIL, "rank 3 (host b): joining: no")
    expect(gather, Status.NOT_CHECKED)


@pytest.mark.parametrize(("ahead", "status"), [(0.01, "pass"), (-3.0, "warn"), (60.0, "fail"), (-60.0, "fail")])
def test_check_clocks(ahead, status):
    facts = {0: measured(0, clocks=[Clock(rank=2, ahead_seconds=ahead, round_trip_seconds=0.002)])}
    expect(network_checks.check_clocks(facts, HOSTS), status, "b is ", "ahead of" if ahead > 0 else "behind")


def test_clock_difference_within_the_round_trip_passes():
    facts = {0: measured(0, clocks=[Clock(rank=2, ahead_seconds=2.0, round_trip_seconds=4.0)])}
    expect(network_checks.check_clocks(facts, HOSTS), Status.PASS)


def test_check_links_and_stragglers():
    links = [LinkTiming(ranks=(0, 2), bytes=10**9, seconds=1), LinkTiming(ranks=(2, 4), bytes=10**9, seconds=1)]
    hosts = HOSTS | {4: "c"}
    expect(network_checks.check_links({0: measured(0, links=links)}, hosts), Status.PASS)
    slow = [*links, LinkTiming(ranks=(4, 0), bytes=10**9, seconds=5)]
    expect(network_checks.check_links({0: measured(0, links=slow)}, hosts), Status.WARN, "c - a 0.20 GB/s")
    expect(network_checks.check_links(network(), {0: "a"}), Status.NOT_CHECKED, "one host")
    expect(network_checks.check_stragglers(network(), HOSTS), Status.PASS)
    expect(network_checks.check_stragglers(network(matmul_seconds=2.0), HOSTS), Status.WARN, "rank 3 (host b)")


def test_not_requested_and_not_reached_have_different_fixes(config):
    not_requested = Findings(4, hosts=four())
    nothing_reached = Findings(
        4,
        hosts=four(),
        data={},
        checksums={},
        folder=FolderFacts(folder="/"),
        network={},
        silent=SilentRanks((3,), "x"),
    )
    for found, text in ((not_requested, "give --"), (nothing_reached, "rows that failed")):
        rows = {check.name: check for check in table_rows(found, config)}
        for name in ("dataset", "shards", "disk room", "shared folder"):
            assert rows[name].status is Status.NOT_CHECKED
            assert text in rows[name].fix
    assert rows["all-reduce"].observed == "not reached"
