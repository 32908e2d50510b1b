"""Read plans for packed data sets."""

from dataclasses import replace

from biggan.data.dataset import load
from biggan.data.stream import ReadPlan


def plan(folder, dataset=None, **settings):
    """Return the plan of a run on a data set; `dataset` is one that `read_dataset` allowed to name other places."""
    allowed = {} if dataset is None else {"access": dataset.access}
    dataset = dataset or load(folder)
    defaults = ReadPlan(
        root=str(folder),
        shards=dataset.splits["train"].shards,
        resolution=32,
        channels=dataset.channels,
        classes=10,
        streams=6,
        shuffle_buffer=40,
        horizontal_flip=True,
        seed=0,
        max_bad_samples=10,
        **allowed,
    )
    return replace(defaults, **settings)
