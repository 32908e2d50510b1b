"""No command starts a program or leaves the data set for a name in dataset.json, unless that is allowed."""

import io
import json
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import pytest
import reads
from packs import plan, run
from PIL import Image

from biggan.data.dataset import load
from biggan.data.loader import Loader
from biggan.data.preview import readable_samples
from biggan.data.stream import START, AssignedShard, read_dataset, read_shards
from biggan.errors import InputError
from biggan.evaluation.evaluation_run import _read_data

SHARD = "train-00003.tar"
PROGRAMS = ("gsutil", "ais", "curl", "gs", "s3cmd")


@pytest.fixture
def copy(digits, tmp_path):
    """A data set whose shard 3 only `outside` has."""
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "copy"
    shutil.copytree(digits, folder)
    (folder / SHARD).rename(tmp_path / "outside" / SHARD)
    return folder


@pytest.fixture
def started(tmp_path, monkeypatch):
    """The file that the programs of webdataset's schemes, replaced here, write to if they are started."""
    folder, file = tmp_path / "bin", tmp_path / "started"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f'#!/bin/sh\necho {name} >> {file}\ncat "{tmp_path}/outside/{SHARD}"\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return file


def renamed(folder, name):
    """Let dataset.json name its shard 3 so."""
    file = folder / "dataset.json"
    file.write_text(file.read_text().replace(json.dumps(SHARD), json.dumps(name), 1))


def refused(run_command, *arguments, names):
    code, output = run_command(*arguments)
    assert code == 2, output
    line = next(line for line in output.splitlines() if line.startswith(("biggan: ", "failed: ")))
    assert all(name in line for name in names), line


@pytest.mark.parametrize(
    "name",
    [
        "pipe:touch {tmp}/started; cat {tmp}/outside/{shard}",
        "PIPE:touch {tmp}/started",
        "gs://bucket/{shard}",
        "gs:bucket/{shard}",
        "ais://bucket/{shard}",
        "htgs://bucket/{shard}",
        "hf://datasets/a/b/{shard}",
        "s3://bucket/{shard}",
    ],
)
def test_no_command_starts_a_program(copy, tiny, tmp_path, name, started, run_command):
    name = name.format(tmp=tmp_path, shard=SHARD)
    renamed(copy, name)
    parts = [f"data.path: '{name}'", "data.allow_pipe=true"]
    commands = [["data", copy], ["train", tiny[0], tiny[1], f"data.path={copy}"]]
    if name.startswith("pipe:"):
        commands += [["data", copy, "--verify"], ["doctor", "--data", copy]]
    for command in commands:
        refused(run_command, *command, names=parts)
    with pytest.raises(InputError, match=r"^--data: '.*' starts a program"):
        _read_data(str(copy))  # of `biggan eval`
    assert not started.exists()


def test_a_shard_is_refused_where_it_is_opened(copy, tmp_path, started):
    shard = load_with(copy, SHARD).splits["train"].shards[3]
    for name in (
        f"pipe:touch {started}",
        "gs://bucket/x.tar",
        "../outside/" + SHARD,
        f"file://{tmp_path}/outside/{SHARD}",
    ):
        hostile = shard.model_copy(update={"name": name})
        read = read_shards(reads.plan(tmp_path / "whole"), [AssignedShard(0, hostile, 0, 0, last=False)])
        with pytest.raises(InputError, match=r"data\.path: "):
            next(read)
    assert not started.exists()


def load_with(folder, name):
    """Return the data set after its shard 3 has come back under this name, in `whole`."""
    whole = folder.parent / "whole"
    shutil.copytree(folder, whole)
    shutil.copy(folder.parent / "outside" / SHARD, whole / name)
    return load(whole)


@pytest.mark.parametrize(
    "root", ["gs://bucket", "ais://bucket", "pipe:cat {copy}", "s3://bucket", "http://[", "file://["]
)
def test_a_data_set_behind_a_program_or_a_broken_url_is_one_line(copy, tiny, root, started, run_command):
    root = root.format(copy=copy)
    refused(run_command, "train", tiny[0], tiny[1], f"data.path={root}", names=["data.path: ", root])
    assert not started.exists() or root.startswith("http")


def names_read(folder, dataset):
    """Return the names of the samples of one epoch."""
    read = reads.plan(folder, dataset, streams=1)
    loader = Loader(read, micro_batch_size=1, cursors=[START], rank=0, world_size=1, workers=0)
    return {loader.names[0] for _ in islice(loader, 1797)}


@pytest.mark.parametrize("name", ["pipe:cat '{place}'", "gs://bucket/{shard}"])
def test_programs_start_if_that_is_allowed(copy, tmp_path, name, started):
    renamed(copy, name.format(place=tmp_path / "outside" / SHARD, shard=SHARD))
    dataset = read_dataset(str(copy), allow_pipe=True)
    assert dataset.images == 1797
    assert len(names_read(copy, dataset)) == 1797
    with pytest.raises(InputError, match=r"data\.allow_pipe=true"):
        read_dataset(str(copy), allow_pipe=False, allow_outside=True)


OUTSIDE = [
    "../outside/{shard}",
    "{tmp}/outside/{shard}",
    "file://{tmp}/outside/{shard}",
    "file:{tmp}/outside/{shard}",
    "x/../../outside/{shard}",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_shards_outside_the_data_set_are_refused_unless_allowed(copy, tiny, tmp_path, name, run_command):
    (copy / "x").mkdir()
    name = name.format(tmp=tmp_path, shard=SHARD)
    renamed(copy, name)
    for command in (["data", copy], ["train", tiny[0], tiny[1], f"data.path={copy}"]):
        refused(run_command, *command, names=[f"data.path: {copy}: ", f"'{name}'", "data.allow_outside=true"])
    with pytest.raises(InputError, match=r"data\.allow_outside=true"):
        read_dataset(str(copy), allow_pipe=True)
    dataset = read_dataset(str(copy), allow_pipe=False, allow_outside=True)
    assert len(names_read(copy, dataset)) == 1797


@pytest.fixture
def server(tmp_path):
    """A server of tmp_path, and the paths that it has been asked for."""
    asked = []

    class Recorder(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(Recorder, directory=str(tmp_path)))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}", asked
    serving.shutdown()


def test_a_local_data_set_opens_no_url_unless_allowed(copy, server, run_command):
    url, asked = server
    renamed(copy, f"{url}/outside/{SHARD}")
    refused(run_command, "data", copy, names=[f"{url}/outside/{SHARD}", "data.allow_outside=true"])
    assert asked == []
    dataset = read_dataset(str(copy), allow_pipe=False, allow_outside=True)
    assert len(names_read(copy, dataset)) == 1797
    assert asked == [f"/outside/{SHARD}"]


def test_a_remote_data_set_opens_nothing_here(copy, tmp_path, server):
    url, asked = server
    for name in (
        f"file://{tmp_path}/outside/{SHARD}",
        f"{tmp_path}/outside/{SHARD}",
        f"../outside/{SHARD}",
        "pipe:true",
    ):
        shutil.copy(copy / "dataset.json", copy / "sound.json")
        renamed(copy, name)
        with pytest.raises(InputError, match=r"data\.path: "):
            read_dataset(f"{url}/copy", allow_pipe=False)
        shutil.move(copy / "sound.json", copy / "dataset.json")
    assert set(asked) == {"/copy/dataset.json"}


def test_links_in_the_folder_are_followed_and_their_content_is_checked(copy, tmp_path, run_command):
    """Data sets spread over disks are made of links. The checksum keeps other files from being taken for shards."""
    (copy / SHARD).symlink_to(tmp_path / "outside" / SHARD)
    assert run_command("data", copy)[0] == 0
    (copy / SHARD).unlink()
    other = tmp_path / "outside" / "secret"
    other.write_bytes(bytes((tmp_path / "outside" / SHARD).stat().st_size))
    (copy / SHARD).symlink_to(other)
    refused(run_command, "data", copy, names=[f"{copy}/{SHARD}: "])


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(touch) run\nshowpage\n%%EOF\n"


def test_images_start_no_program(tmp_path, started, monkeypatch):
    """Pillow gives an EPS file to Ghostscript, whatever the file's name is."""
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path / "p" / "a").mkdir(parents=True)
    (tmp_path / "p" / "a" / "hostile.png").write_bytes(EPS)
    Image.new("RGB", (8, 8)).save(tmp_path / "p" / "a" / "sound.png")
    dataset = run(plan(tmp_path / "p", shards=1), tmp_path / "d")
    assert [skipped.path for skipped in dataset.skipped] == ["a/hostile.png"]
    shard = tmp_path / "d" / "train-00000.tar"
    with tarfile.open(shard, "w") as tar:
        for name, content in (("0.png", EPS), ("0.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert list(readable_samples(dataset, str(tmp_path / "d"), "train")) == []
    assert not started.exists()
