"""Compare the scaling model with closed forms, simulations and torch's own buckets."""

import random
import statistics
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from biggan.cost.calibration import Timing, fit_link, with_measured_link
from biggan.cost.engine_cost import ENGINES, EngineSettings, bucket_ends, traffic, with_collectives
from biggan.cost.scaling import (
    ASSUMED,
    Cluster,
    Collective,
    GradientReady,
    Link,
    MicroStep,
    Operation,
    Transport,
    largest_normal,
    predict,
    ring_sent_bytes,
    ring_steps,
    straggler_wait,
)

pytestmark = pytest.mark.numeric

HOP = Link(1e-3, 1e-6)
PLAIN = Cluster(
    processes_per_node=100,
    transports=(Transport(0.0, HOP, HOP, trees=False),),
    bfloat16_flop_per_second=1e3,
    float32_flop_per_second=1e2,
    bytes_per_second=1e3,
    launch_seconds=0.0,
    host_hop_seconds=0.0,
    noise=0.0,
)


def reduce(size, cause="gradients"):
    return Collective("all_reduce", size, cause)


def iteration(*events):
    return [MicroStep(events, 1, boundary=True)]


def test_ring_seconds_match_closed_forms():
    assert PLAIN.seconds(reduce(1000), 4) == pytest.approx(2 * 3 * (1e-3 + 250e-6))
    assert PLAIN.seconds(Collective("all_gather", 1000, "batchnorm"), 4) == pytest.approx(3 * (1e-3 + 1e-3))
    assert PLAIN.seconds(reduce(1000), 1) == 0


def test_ring_counts_hops_between_nodes_and_uses_the_slowest_link():
    far = Link(10e-3, 4e-6)
    cluster = replace(PLAIN, processes_per_node=4, transports=(Transport(0.5, HOP, far, trees=False),))
    assert cluster.seconds(reduce(800), 8) == pytest.approx(0.5 + 12 * 1e-3 + 2 * 10e-3 + 14 * 100 * 4e-6)
    assert cluster.seconds(reduce(800), 4) == pytest.approx(0.5 + 6 * 1e-3 + 6 * 200 * 1e-6)


def test_trees_are_faster_for_small_messages_and_not_for_large_ones():
    tree = replace(PLAIN, processes_per_node=1, transports=(Transport(0.0, HOP, HOP, trees=True),))
    ring = replace(PLAIN, processes_per_node=1)
    assert tree.seconds(reduce(8), 64) == pytest.approx(2 * (6 * 1e-3 + 8e-6))
    assert ring.seconds(reduce(8), 64) > 10 * tree.seconds(reduce(8), 64)
    assert tree.seconds(reduce(10**9), 64) == ring.seconds(reduce(10**9), 64)
    gather = Collective("all_gather", 8, "batchnorm")
    assert tree.seconds(gather, 64) == ring.seconds(gather, 64)


def test_operation_time_is_bound_by_arithmetic_memory_or_launch():
    for operation, seconds in (
        (Operation(2000, 10), 2),
        (Operation(2000, 10, float32=True), 20),
        (Operation(0, 3000), 3),
    ):
        assert predict(iteration(operation), PLAIN, 1, 1).total == pytest.approx(seconds)
    slow_host = replace(PLAIN, launch_seconds=5.0)
    assert predict(iteration(*[Operation(2000, 10)] * 3), slow_host, 1, 1).total == pytest.approx(17)
    assert predict(iteration(Operation(2000, 10)), replace(PLAIN, compute_scale=1.5), 1, 1).total == pytest.approx(3)


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_one_process_does_not_communicate(engine):
    steps = iteration(Operation(1000, 0), Collective("all_gather", 100, "batchnorm"), GradientReady(4000))
    alone = predict(with_collectives(steps, engine, 1), replace(PLAIN, noise=0.1), 1, 1)
    assert (alone.compute, alone.total) == (pytest.approx(1), pytest.approx(1))
    assert traffic(with_collectives(steps, engine, 1), 1, 1) == []


def test_gradients_overlap_with_the_backward_pass_and_batchnorm_does_not():
    two_seconds = reduce(2_000_000 - 2000)  # 2 hops of 1 ms, and a byte a microsecond
    assert PLAIN.seconds(two_seconds, 2) == pytest.approx(2)
    overlapped = predict(iteration(two_seconds, Operation(5000, 0)), PLAIN, 2, 2)
    assert (overlapped.compute, overlapped.gradients) == (pytest.approx(5), pytest.approx(0))
    exposed = predict(iteration(Operation(5000, 0), two_seconds), PLAIN, 2, 2)
    assert exposed.gradients == pytest.approx(2)
    serial = predict(iteration(replace(two_seconds, cause="batchnorm"), Operation(5000, 0)), PLAIN, 2, 2)
    assert (serial.batchnorm, serial.total) == (pytest.approx(2), pytest.approx(7))
    shared_cores = predict(iteration(two_seconds, Operation(5000, 0)), replace(PLAIN, cores_per_node=2), 2, 2)
    assert shared_cores.total == pytest.approx(7)


def test_flag_costs_only_the_time_the_device_is_idle():
    hops = replace(PLAIN, host_hop_seconds=0.1, transports=(Transport(0.0, Link(0, 0), Link(0, 0), False),))
    predictions = [predict(iteration(Operation(1000, 0)), hops, n, n) for n in (1, 2, 11)]
    # 0, 2 and 20 hops; the device has work for 1 s
    assert [p.host_flag for p in predictions] == [0, 0, pytest.approx(1)]
    assert [p.total for p in predictions] == [1, 1, pytest.approx(2)]
    busy_host = replace(hops, launch_seconds=0.9)
    assert predict(iteration(Operation(1000, 0)), busy_host, 11, 11).host_flag == pytest.approx(1)  # ahead by 1 s
    assert predict(iteration(*[Operation(0, 0)] * 3), busy_host, 11, 11).host_flag == pytest.approx(2)  # not ahead
    shared_cores = predict(iteration(Operation(1000, 0)), replace(hops, cores_per_node=16), 2, 2)
    assert shared_cores.host_flag == pytest.approx(0.2)


def test_batchnorm_queues_behind_gradients_only_on_a_shared_communicator():
    two_seconds, small = reduce(2_000_000 - 2000), reduce(0, "batchnorm")
    events = iteration(two_seconds, Operation(1000, 0), small, Operation(4000, 0))
    assert predict(events, PLAIN, 2, 2).gradients == pytest.approx(1)
    groups = predict(events, PLAIN, 4, 2)
    assert groups.gradients == pytest.approx(0, abs=1e-9)


def test_processes_that_share_cores_slow_down():
    cores = replace(PLAIN, cores_per_node=2, transports=(Transport(0.0, Link(0, 0), Link(0, 0), False),))
    seconds = [predict(iteration(Operation(1000, 0)), cores, n, n).total for n in (1, 2, 4)]
    assert seconds == [1, 1, 2]


def test_higher_latency_lower_bandwidth_or_more_noise_is_slower():
    steps = iteration(Operation(1000, 0), reduce(500, "batchnorm"), Operation(1000, 0), reduce(5000))

    def seconds(latency, per_byte, noise):
        link = Link(latency, per_byte)
        cluster = replace(PLAIN, noise=noise, transports=(Transport(0.0, link, link, trees=True),))
        return predict(steps, cluster, 16, 16).total

    assert seconds(0, 0, 0) == 2  # nothing but computing
    for better, worse in (((0, 0, 0), (1e-3, 0, 0)), ((0, 0, 0), (0, 1e-6, 0)), ((1e-3, 1e-6, 0), (1e-3, 1e-6, 0.01))):
        assert seconds(*better) < seconds(*worse)


@pytest.mark.parametrize("n", [1, 2, 16, 300])
def test_largest_normal_matches_a_simulation(n):
    draw = random.Random(0)
    largest = [max(draw.gauss(0, 1) for _ in range(n)) for _ in range(3000)]
    mean, deviation = largest_normal(n)
    # Three standard errors of 3,000 drawn maxima; the integral itself is good to 3e-5.
    assert mean == pytest.approx(statistics.mean(largest), abs=0.06)
    assert deviation == pytest.approx(statistics.stdev(largest), rel=0.05)
    assert largest_normal(2) == (
        pytest.approx(torch.pi**-0.5, abs=1e-4),
        pytest.approx((1 - 1 / torch.pi) ** 0.5, abs=1e-4),
    )


@pytest.mark.parametrize("group", [1, 2, 4, 16])
def test_straggler_wait_matches_a_simulation(group):
    draw, processes, updates, exchanges, noise, seconds = random.Random(0), 16, 2, 12, 0.02, 3.0
    deviation = noise * (seconds / (updates * (exchanges + 1))) ** 0.5
    waited = 0.0
    for _ in range(400):
        for _ in range(updates):
            clocks = [0.0] * processes  # how late each process is when an update starts
            for synchronization in range(exchanges + 1):
                clocks = [clock + draw.gauss(0, deviation) for clock in clocks]
                if group > 1 or synchronization == exchanges:
                    groups = [clocks[first : first + group] for first in range(0, processes, group)]
                    clocks = [max(clocks) for clocks in groups for _ in range(group)]
            waited += max(clocks) / 400
    predicted = straggler_wait(seconds, noise, updates * (exchanges + 1), updates, processes, group)
    assert predicted == pytest.approx(waited, rel=0.04)  # the mean of 400 seeded runs


def test_batchnorm_waits_for_its_group_and_updates_for_all_processes():
    exchange = reduce(0, "batchnorm")
    steps = [
        MicroStep((Operation(500, 0), exchange, exchange), 2, boundary=False),
        MicroStep((Operation(1000, 0), exchange, exchange), 1, boundary=True),
    ]
    free = Link(0.0, 0.0)
    cluster = replace(PLAIN, noise=0.01, transports=(Transport(0.0, free, free, trees=False),))
    waits = {group: predict(steps, cluster, 16, group).straggler for group in (1, 4, 16)}
    (two, _), (four, spread), (sixteen, _) = largest_normal(2), largest_normal(4), largest_normal(16)
    second = 0.01 * 2**0.5  # 2 s of work
    assert waits[1] == pytest.approx(second * sixteen)  # one update; groups of one process do not wait in BatchNorm
    assert waits[4] == pytest.approx(second * (7**0.5 * four + spread * four))  # 4 groups of 4; 6 exchanges, an update
    assert waits[16] == pytest.approx(second * 7**0.5 * sixteen)
    assert predict(steps, cluster, 2, 2).straggler == pytest.approx(second * 7**0.5 * two)


def test_fit_recovers_planted_latency_and_bandwidth():
    planted, draw = Link(80e-6, 0.7e-9), random.Random(1)
    timings = []
    for name in ("all_reduce", "all_gather"):
        for size in (4, 4096, 2**20, 2**25):
            for processes in (2, 4):
                collective = Collective(name, size, "gradients")
                exact = ring_steps(name, processes) * planted.seconds + ring_sent_bytes(collective, processes) * 0.7e-9
                timings.append(Timing(collective, processes, exact))
    assert fit_link(timings) == Link(pytest.approx(80e-6), pytest.approx(0.7e-9))
    noisy = fit_link([replace(t, seconds=t.seconds * draw.uniform(0.9, 1.1)) for t in timings])
    assert noisy == Link(pytest.approx(80e-6, rel=0.1), pytest.approx(0.7e-9, rel=0.1))  # as noisy as the timings
    with pytest.raises(ValueError, match="two"):
        fit_link(timings[:1])


def test_calibration_on_one_host_keeps_the_assumed_network():
    (transport,) = with_measured_link(ASSUMED, HOP, hosts=1).transports
    assert (transport.within, transport.between) == (HOP, Link(14e-6, 1 / 300e9))
    (transport,) = with_measured_link(ASSUMED, HOP, hosts=2).transports
    assert (transport.within, transport.between) == (HOP, HOP)


def test_bucket_ends_match_torch():
    draw = random.Random(2)
    sizes = [draw.choice([64, 4096, 300_000, 2_000_000, 9_000_000]) for _ in range(200)]
    tensors = [torch.empty(size, device="meta") for size in sizes]
    theirs, _ = dist._compute_bucket_assignment_by_size(tensors, [2**20, 25 * 2**20])
    ours = bucket_ends([4 * size for size in sizes], 2**20, 25 * 2**20)
    assert [bucket[-1] + 1 for bucket in theirs] == ours


def test_zero_2_reduces_in_every_micro_step_and_zero_1_in_the_last():
    micro = MicroStep((Operation(1, 1), GradientReady(4000)), 3, boundary=False)
    steps = [micro, replace(micro, repeats=1, boundary=True)]
    counts = {
        str(engine): {t.cause: t.count for t in traffic(with_collectives(steps, engine, 8), 8, 8)} for engine in ENGINES
    }
    assert counts["DDP"] == {"gradients": 1, "host flag": 1}
    assert counts["ZeRO 1"] == {"gradients": 2, "parameters": 1, "host flag": 1}  # one of them for the norm
    assert counts["ZeRO 2"] == {"gradients": 5, "parameters": 1, "host flag": 1}
    small = EngineSettings("deepspeed", 1, zero_bucket_elements=100)
    assert [t.count for t in traffic(with_collectives(steps, small, 8), 8, 8) if t.cause == "gradients"] == [2]
