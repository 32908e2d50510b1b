"""The variables of a launcher and the limit of open files: what is half set, or too low, is named in one line."""

import resource

import pytest
import torch

from biggan.distributed import environment
from biggan.distributed.process import join
from biggan.doctor.examination import ExaminationRequest, examine
from biggan.errors import InputError

COMPLETE = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def variables(monkeypatch):
    """Set the launcher's variables to these only."""

    def set_all(values):
        for name in COMPLETE:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


def refused(act) -> str:
    with pytest.raises(InputError) as stopped:
        act()
    assert "\n" not in str(stopped.value)
    return str(stopped.value)


def start_run():
    with join(2):
        raise AssertionError("it has joined")


def start_doctor():
    examine(ExaminationRequest(None, (), None, None, False, None, 8))


@pytest.mark.parametrize("start", [start_run, start_doctor])
@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(variables, start, name, value):
    variables({k: v for k, v in COMPLETE.items() if k != name} | ({} if value is None else {name: value}))
    message = refused(start)
    assert message.startswith(f"{name}: ")
    assert "torchrun" in message


@pytest.mark.parametrize("start", [start_run, start_doctor])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("WORLD_SIZE", value) for value in ("two", "0", "-1", "", "1e3", "9" * 400, "²")),
        *(("RANK", value) for value in ("x", "2", "-1")),
        ("LOCAL_RANK", "gpu0"),
        *(("MASTER_PORT", value) for value in ("http", "0", "65536", "-1")),
    ],
)
def test_a_value_that_is_not_valid_is_named(variables, start, name, value):
    variables(COMPLETE | {name: value})
    assert refused(start).startswith(f"{name}: ")


@pytest.mark.parametrize("values", [{"RANK": "1"}, {"RANK": ""}, {"RANK": "3", "WORLD_SIZE": "2"}, {"RANK": "x"}])
def test_a_rank_among_fewer_processes_is_no_reason_to_do_nothing(variables, values):
    """`biggan sample` draws on rank 0 only."""
    variables(values)
    assert refused(environment.global_rank).startswith("RANK: ")


@pytest.mark.parametrize("values", [{"LOCAL_RANK": "1"}, {"LOCAL_RANK": "gpu0", "WORLD_SIZE": "2"}])
def test_a_local_rank_that_is_not_valid_is_named(variables, monkeypatch, values):
    variables(values)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert refused(environment.local_rank).startswith("LOCAL_RANK: ")


def test_complete_variables_are_accepted(variables):
    variables(COMPLETE)
    environment.check_rendezvous(environment.world_size_from_environment())
    assert (environment.global_rank(), environment.local_rank()) == (1, 1)
    variables({"WORLD_SIZE": "1", "RANK": "0"})
    environment.check_rendezvous(environment.world_size_from_environment())


@pytest.fixture
def limits():
    """Restore this process's limits of open files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_raised_to_the_hard_one(variables, limits):
    variables({})
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    with join(2):
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])


@pytest.mark.parametrize(("hard", "shards"), [(1000, 0), (1300, 1024)])
def test_a_hard_limit_that_is_too_low_for_the_processes_is_named(variables, limits, monkeypatch, hard, shards):
    variables(COMPLETE | {"WORLD_SIZE": "512"})
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    environment.allow_open_files(300, 300)
    message = refused(lambda: environment.allow_open_files(512, 512 * shards))
    assert message.startswith("ulimit -n: ")
    assert str(hard) in message
    if not shards:
        assert refused(start_run) == message
