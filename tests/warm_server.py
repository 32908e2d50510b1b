"""A server that has imported torch and biggan once, and forks a process for each command that a test runs.

A new interpreter needs 3 to 10 seconds of CPU for these imports, a fork needs milliseconds. The fork leads a session
of its own, and runs its command as `python -m MODULE` or `python SCRIPT` would: `__main__`, `sys.argv`, the
environment, tracebacks, exit codes and what runs at exit are the interpreter's. `warm.py` is the client.

What a fork cannot show: imports that a command lacks, start-up before `main`, the teardown of modules, and hash seeds
that differ between processes. Tests of these start real interpreters (`runs.command`).
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import biggan

MAX_REQUEST_BYTES = 1 << 20
IMPORTED_LATER = ("biggan.__main__", "biggan.generation.onnx_model")
"""The first is the program itself; the second imports onnxruntime, which starts threads that no fork would have."""
ALSO_IMPORTED = (
    "deepspeed",
    "mlflow",
    "sklearn.datasets",
    "torch._dynamo",
    "torchvision",
    "webdataset",
)


def import_everything():
    """Import what commands import, and start no thread."""
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(biggan.__path__, "biggan."):
        if module.name not in IMPORTED_LATER:
            importlib.import_module(module.name)
    for name in ALSO_IMPORTED:
        importlib.import_module(name)
    threads = [task.name for task in Path("/proc/self/task").iterdir()]
    assert len(threads) == 1, "a thread was started: a fork would lack it"
    gc.collect()
    gc.freeze()  # a collection in a fork need not copy all these pages


@dataclass
class Child:
    """A command that runs, or has ended and waits for its client to read the exit code."""

    pid: int
    pidfd: int
    channel: socket.socket
    """To the client: the process id, then the exit code. The client closes it."""
    has_ended: bool = False

    def close(self):
        """Forget it, in this process."""
        os.close(self.pidfd)
        self.channel.close()


class Server:
    """Forks for requests that come with two files, for output and errors, and the end of a channel."""

    def __init__(self, control):
        self.control, self.children = control, []
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ, (self.start, ()))

    def serve(self):
        """Serve until the client is gone. In each fork, return its request and the two files."""
        while True:
            ready = self.selector.select()
            action, arguments = ready[0][0].data
            if (request := action(*arguments)) is not None:
                return request

    def start(self):
        """Fork for a request; None in this process."""
        data, fds, _, _ = socket.recv_fds(self.control, MAX_REQUEST_BYTES, 3)
        if not data:
            for child in self.children:
                os.killpg(child.pid, signal.SIGKILL)
            os._exit(0)
        *streams, channel_fd = fds
        channel = socket.socket(fileno=channel_fd)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            channel.send(str(os.getpid()).encode())  # from here on its group can be killed
            for end in (self.selector, self.control, channel, *self.children):
                end.close()
            return json.loads(data), streams
        for fd in streams:
            os.close(fd)
        child = Child(pid, os.pidfd_open(pid), channel)
        self.children.append(child)
        self.selector.register(child.pidfd, selectors.EVENT_READ, (self.report_end, (child,)))
        self.selector.register(channel, selectors.EVENT_READ, (self.reap, (child,)))
        return None

    def report_end(self, child):
        """Send the exit code. The process stays a zombie until the client has read it, so its id stays its own."""
        result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
        code = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        child.has_ended = True
        self.selector.unregister(child.pidfd)
        with suppress(BrokenPipeError):
            child.channel.send(str(code).encode())

    def reap(self, child):
        """The client has read the exit code; or it has forgotten the command, as a test that failed has: kill it."""
        if not child.has_ended:
            os.killpg(child.pid, signal.SIGKILL)
            self.selector.unregister(child.pidfd)
        self.selector.unregister(child.channel)
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        child.close()
        self.children.remove(child)


def become(request, streams):
    """Make this fork the process that was asked for, up to its first line of Python."""
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for target, fd in enumerate(streams, 1):
        os.dup2(fd, target)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number in (signal.SIGTERM, signal.SIGHUP):  # a background job of a shell ignores some; its children would too
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    importlib.import_module("numpy").random.seed()
    program = request["program"]
    sys.argv = [program, *request["arguments"]]
    sys.path[0] = str(Path(program).parent) if program.endswith(".py") else request["cwd"]


def run(program):
    """Run a module or a script as `__main__`."""
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def exit_code(function, *arguments):
    """Call a function; return what an interpreter that did so would exit with, after its traceback."""
    try:
        function(*arguments)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    else:
        return 0
    sys.stderr.flush()
    return 1


def end(code):
    """End as an interpreter does, but for the teardown of its modules, which takes half a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def rank(program):
    """Run the program as a worker that torchrun has forked. What fails is not left to torchrun to report."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Path("/proc/self/comm").write_text(f"rank {os.environ['RANK']}")  # for tests that look for it
    if code := exit_code(run, program):
        sys.exit(code)


def torchrun(program, processes, max_restarts):
    """Run a program as `torchrun --standalone` does, with its agent, but with forks of this process as workers."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        start_method="fork",
    )
    record(elastic_launch(config, rank))(program)


def main(program, processes, max_restarts):
    """Run a program, under torchrun unless `processes` is None."""
    if processes is None:
        run(program)
    else:
        torchrun(program, processes, max_restarts)


if __name__ == "__main__":
    control = socket.socket(fileno=int(sys.argv[1]))
    import_everything()
    request, streams = Server(control).serve()
    become(request, streams)
    end(exit_code(main, request["program"], request["processes"], request["max_restarts"]))
