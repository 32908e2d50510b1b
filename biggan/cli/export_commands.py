"""The commands `biggan export` and `biggan serve`."""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.errors import InputError
from biggan.generation.arguments import parse_truncation

if TYPE_CHECKING:
    from biggan.generation.export_writer import Addition


class Format(StrEnum):
    """Additional formats of an exported generator."""

    torch_export = "torch-export"
    onnx = "onnx"
    mlflow = "mlflow"


def export(
    source: Annotated[str, typer.Argument(metavar="RUN", help="RUN (newest), RUN@STEP, RUN@best or RUN@good.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; must not exist.")],
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="Additional format to write; repeatable.")
    ] = None,
    truncations: Annotated[
        str, typer.Option(help="Compute statistics for these; samples and other formats use the first one.")
    ] = "none,1,0.7,0.5",
    license_id: Annotated[str, typer.Option("--license", help="The weights' license, as in apache-2.0.")] = "unknown",
    discriminator: Annotated[bool, typer.Option(help="Add the discriminator, for further training.")] = False,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --format mlflow: register the model under this name.")
    ] = None,
) -> None:
    """Export the EMA generator to a folder that model hubs and biggan.load_generator can read."""
    unique_formats = dict.fromkeys(formats or ())
    thresholds = dict.fromkeys(parse_truncation(part.strip(), "--truncations") for part in truncations.split(","))
    if register is not None and Format.mlflow not in unique_formats:
        raise InputError("--register: registers an MLflow model; add --format mlflow, or remove --register")
    if out.exists():
        raise InputError(f"OUT: {out} already exists; delete it, or choose another folder")
    from biggan.distributed.process import this_device
    from biggan.generation import export as exporting
    from biggan.generation.load import find_checkpoint
    from biggan.progress import Meter

    additions = {name.value: _addition(name) for name in unique_formats}
    checkpoint = find_checkpoint(source, lambda message: sys.stderr.write(f"{message}\n"))
    request = exporting.ExportRequest(checkpoint, out, tuple(thresholds), license_id, discriminator)
    task, done, batches = "standing statistics", itertools.count(1), exporting.batches(request)
    with Meter() as meter:
        meter(task, 0, batches)
        exporting.export(request, additions, this_device(), lambda: meter(task, next(done), batches))
    sys.stdout.write(f"{out}\n")
    if register is not None:
        sys.stdout.write(f"models:/{_registered(out, register, checkpoint)}\n")


def _registered(out: Path, name: str, checkpoint: Path) -> str:
    """Register the export's MLflow model on the tracking server of the checkpoint's run; return NAME/VERSION."""
    from biggan.config.preset import resolve
    from biggan.generation import mlflow_export
    from biggan.generation.load import run_of

    experiment = resolve(checkpoint / "config.yaml").tracking.experiment
    return mlflow_export.register(out, name, run_of(checkpoint) or out, experiment)


def _addition(name: Format) -> Addition:
    """Return the function that writes a format; raise InputError if its libraries are not installed."""
    if name is Format.torch_export:
        from biggan.generation import torch_export

        return torch_export.write
    if name is Format.onnx:
        _require_libraries("--format onnx", "onnx", "onnx", "onnxscript", "onnxruntime")
        from biggan.generation import onnx_model

        return onnx_model.write
    from biggan.tracking import set_environment

    set_environment()
    from biggan.generation import mlflow_export

    return mlflow_export.write


def serve(
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", help="A folder that `biggan export` wrote.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 8501,
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 accepts this machine only.")] = "127.0.0.1",
    names: Annotated[
        list[str] | None, typer.Option("--name", help="Another name of this host in the page's address; repeatable.")
    ] = None,
) -> None:
    """Serve a web page to explore a generator: classes, mixtures, truncation, seeds, interpolations."""
    _require_libraries("biggan serve", "serve", "streamlit")
    _check_port_free(host, port)
    import torch

    from biggan.generation.export_reader import read_export

    read_export(folder, torch.device("cpu"))  # report errors here, not in the browser
    page = Path(__file__).parents[1] / "generation" / "serve_page.py"
    sys.stdout.flush()
    # Replace this process, so that signals reach the page's server directly.
    streamlit = [sys.executable, "-m", "streamlit", "run", *page_options(host, port, names or [])]
    os.execv(sys.executable, [*streamlit, str(page), "--", str(folder)])


def page_options(host: str, port: int, names: Sequence[str]) -> list[str]:
    """Return streamlit's options. The page answers to the names of this host only.

    Another web page cannot reach it from the user's browser under a name of its own (DNS rebinding).
    """
    settings = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.enableCORS": "true",
        "server.enableXsrfProtection": "true",
        "server.fileWatcherType": "none",
        "browser.serverAddress": host,
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "runner.magicEnabled": "false",
        "client.showErrorDetails": "none",
    }
    own = [host, *names]
    if host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::"):
        own += ["127.0.0.1", "::1", "localhost"]
    if host in ("0.0.0.0", "::"):
        own += [socket.gethostname(), socket.getfqdn(), *_addresses(socket.gethostname())]
    hosts = [f"--server.allowedHosts={name}" for name in dict.fromkeys(own)]
    return [f"--{key}={value}" for key, value in settings.items()] + hosts


def _addresses(name: str) -> list[str]:
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None)})
    except OSError:
        return []


def _require_libraries(feature: str, extra: str, *libraries: str) -> None:
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise InputError(f"{feature}: needs {', '.join(missing)}: pip install 'biggan[{extra}]'")


def _check_port_free(host: str, port: int) -> None:
    """Raise InputError if the address cannot be bound."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InputError(f"--host, --port: {host}:{port}: {error.strerror}; choose another address") from None
