"""Small images, packed, and read back without the loader."""

import io
import tarfile
from contextlib import contextmanager
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from biggan.data.dataset import load
from biggan.data.pack import Plan, start_packing
from biggan.data.sources.selection import SelectionRequest
from biggan.errors import InputError


@contextmanager
def raises_input_error(*parts):
    """Expect an InputError of one line that contains all parts: keys, flags, files, values."""
    with pytest.raises(InputError) as error:
        yield
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, (part, message)


def refused(*parts, sources, dest, **settings):
    """Pack sources that cannot be packed; nothing is written."""
    with raises_input_error(*parts):
        run(plan(*sources, **settings), dest)
    assert not dest.exists()


def plan(*sources, **settings):
    """A plan; settings of SelectionRequest go to it, the rest to Plan."""
    of_selection = {f.name: settings.pop(f.name) for f in fields(SelectionRequest) if f.name in settings}
    selection = SelectionRequest(tuple(str(source) for source in sources), **of_selection)
    return Plan(selection, **{"resolution": 32, "shards": 2} | settings)


def run(the_plan, dest, workers=1):
    return start_packing(the_plan, dest).run(workers, lambda _: None)


def pictures(root, classes=("cat", "dog"), each=6, size=(40, 30)):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for k in range(each):
            Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), np.uint8)).save(root / name / f"{k}.png")
    return root


def flat(path, colour, mode="RGB", size=(8, 8)):
    """Write an image of one colour, by which it can be recognised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def samples(dest, split="train"):
    """Return {key: (label, pixels)} of every sample."""
    by_key = {}
    for shard in load(dest).splits[split].shards:
        with tarfile.open(dest / shard.name) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar}
        for name in (n for n in files if n.endswith((".png", ".jpg"))):
            key = name.split(".")[0]
            assert key not in by_key
            by_key[key] = int(files[f"{key}.cls"]), np.asarray(Image.open(io.BytesIO(files[name])))
    return by_key


def reds(dest, split="train"):
    """Return (class name, red of the first pixel) of every sample, sorted; it identifies `flat` images."""
    classes = load(dest).classes
    return sorted(
        (classes[label], int(pixels.reshape(-1, pixels.shape[-1] if pixels.ndim == 3 else 1)[0, 0]))
        for label, pixels in samples(dest, split).values()
    )
