"""Restarted processes do not read store entries of dead ones."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from biggan.distributed.process import fresh_store
from biggan.errors import LostProcesses


def meet(store, world_size, timeout_seconds=20):
    with ThreadPoolExecutor(world_size) as pool:
        joins = [pool.submit(fresh_store, store, rank, world_size, timeout_seconds) for rank in range(world_size)]
        return [join.result() for join in joins]


def test_each_attempt_gets_an_unused_store():
    common = dist.HashStore()
    first = meet(common, 3)
    first[1].set("address", "of the first attempt")
    assert first[2].get("address") == b"of the first attempt"
    common.set("hello/1", "of a process that died before it was welcomed")
    second = meet(common, 3)
    assert not second[0].check(["address"])
    second[2].set("address", "of the second")
    assert [store.get("address") for store in second] == [b"of the second"] * 3


def test_missing_process_is_named():
    with pytest.raises(LostProcesses, match=r"1 of 2 processes .*\b1 s, .*rank 1\b"):
        fresh_store(dist.HashStore(), 0, 2, 1)
