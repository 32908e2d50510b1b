"""Small pictures, packed, and read back without the loader."""

import io
import tarfile
from dataclasses import fields

import numpy as np
from PIL import Image

from biggan.data.dataset import load
from biggan.data.pack import Plan, begin
from biggan.data.sources.selection_request import SelectionRequest


def plan(*sources, **settings):
    """What is said of the sources goes to SelectionRequest, the rest to Plan."""
    of_sources = {f.name: settings.pop(f.name) for f in fields(SelectionRequest) if f.name in settings}
    wanted = SelectionRequest(tuple(str(source) for source in sources), **of_sources)
    return Plan(wanted, **{"resolution": 32, "shards": 2} | settings)


def run(the_plan, dest, workers=1):
    return begin(the_plan, dest).run(workers, lambda _: None)


def pictures(root, classes=("cat", "dog"), each=6, size=(40, 30)):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for k in range(each):
            Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), np.uint8)).save(root / name / f"{k}.png")
    return root


def flat(path, colour, mode="RGB", size=(8, 8)):
    """An image of one colour, by which it can be recognised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def samples(dest, split="train"):
    """(label, pixels) of every sample, by key."""
    found = {}
    for shard in load(dest).splits[split].shards:
        with tarfile.open(dest / shard.name) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar}
        for name in (n for n in files if n.endswith((".png", ".jpg"))):
            key = name.split(".")[0]
            assert key not in found
            found[key] = int(files[f"{key}.cls"]), np.asarray(Image.open(io.BytesIO(files[name])))
    return found


def reds(dest, split="train"):
    """(class name, red of the first pixel) of every sample, sorted: what `flat` images were packed as."""
    classes = load(dest).classes
    return sorted(
        (classes[label], int(pixels.reshape(-1, pixels.shape[-1] if pixels.ndim == 3 else 1)[0, 0]))
        for label, pixels in samples(dest, split).values()
    )
