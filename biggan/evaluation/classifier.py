"""A small network trained on a data set's own real images: features and logits that need no download.

It makes every metric work offline, on images that Inception knows nothing of, and it can be asked whether a
generated image shows the class that was asked for. Trained once, by rank 0, and cached beside the data set.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.data.dataset import Dataset, Shard, checksum
from biggan.data.preview import as_rgb, readable_in
from biggan.distributed.process import Process, has_bfloat16
from biggan.evaluation.features import Extracted
from biggan.evaluation.tensor_file import fits, read_tensors, write_tensors
from biggan.pictures import evenly_spaced
from biggan.progress import Tick
from biggan.random import keyed_generator

MOST_PIXELS = 64
"""Larger images are averaged down to it."""
WIDTHS = (16, 32, 64, 128)
"""Channels at full size, and after each halving; the last width stays from there on."""
BATCH_IMAGES = 128
MOST_IMAGES = 200_000
"""Real images that it learns from, held in memory; of more, evenly spaced ones."""
HELD_OUT_EVERY = 20
"""Where the data set holds no images out, every so many-th image is."""


@dataclass(frozen=True)
class LessonPlan:
    """How it is trained: SGD with Nesterov momentum, one cycle of the learning rate, shifted images, bfloat16."""

    epochs: int = 12
    least_images: int = 60_000
    """Of few images, more epochs: until so many have been seen."""
    peak_lr: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    seed: int = 0

    def epochs_of(self, images: int) -> int:
        """Epochs, for a data set of so many images."""
        return max(self.epochs, math.ceil(self.least_images / images))


class Residual(nn.Module):
    """Conv - BN - ReLU - conv - BN beside a 1x1 shortcut, then ReLU; halves the size."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class ClassifierNetwork(nn.Module):
    """Images uint8 [n, R, R, 3] -> (features [n, dim], logits [n, classes]): residual blocks down to 4 px, averaged."""

    def __init__(self, resolution: int, classes: int):
        super().__init__()
        self.pixels = min(resolution, MOST_PIXELS)
        halvings = max(1, math.ceil(math.log2(self.pixels / 4)))
        widths = [WIDTHS[min(k, len(WIDTHS) - 1)] for k in range(halvings + 1)]
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.blocks = nn.Sequential(*(Residual(widths[k], widths[k + 1]) for k in range(halvings)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = shrunk(images, self.pixels).permute(0, 3, 1, 2)  # channels-last memory: the quick one for convolutions
        features = self.blocks(self.stem(x / 127.5 - 1)).mean((2, 3))
        return features, self.head(features)


def shrunk(images: Tensor, pixels: int) -> Tensor:
    """[n, R, R, 3] -> float32 [n, pixels, pixels, 3] by averaging areas, where that is fewer pixels."""
    x = images.to(torch.float32)
    if images.shape[1] == pixels:
        return x
    return F.interpolate(x.permute(0, 3, 1, 2), size=(pixels, pixels), mode="area").permute(0, 2, 3, 1)


class Classifier:
    """An `Extractor`: the averaged features of a trained `ClassifierNetwork`, and logits of the data set's classes."""

    name = "classifier"

    def __init__(self, network: ClassifierNetwork, held_out_accuracy: float, device: torch.device):
        weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
        self.preprocessing = f"{network.pixels} px, areas averaged"
        self.identity = f"classifier {hashlib.sha256(save(weights)).hexdigest()[:16]} {self.preprocessing}"
        self.held_out_accuracy: float | None = held_out_accuracy
        self.dim, self.logits = network.head.in_features, network.head.out_features
        self._network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """See `Extractor`."""
        return Extracted(*self._network(images))


def open_classifier(
    dataset: Dataset, root: str, cache: Path, process: Process, tick: Tick, course: LessonPlan | None = None
) -> Classifier:
    """The data set's classifier: read from `cache`, or trained by rank 0 and written there. Collective.

    Raises DataError, and InputError where the cache cannot be written, on every process.
    """
    course = course or LessonPlan()
    file = cache_file(dataset, cache, course)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(course.seed)
        network = ClassifierNetwork(dataset.resolution, len(dataset.classes))
    found = process.gather(_cached(file, network) if process.is_main else None)[0]
    if found is None:
        trained = _train(network, dataset, root, process, tick, course)
        process.together(lambda: write_tensors(file, *trained) if trained else None)
        found = process.gather(trained)[0]
    tensors, about = found
    network.load_state_dict(tensors)
    return Classifier(network, about["held_out_accuracy"], process.device)


def _cached(file: Path, network: ClassifierNetwork) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """What `_train` gave; None if it is not there, or is of something else."""
    found = read_tensors(file)
    if found is None or not fits(found[0], network.state_dict()):
        return None
    return found if isinstance(found[1].get("held_out_accuracy"), float) else None


def cache_file(dataset: Dataset, cache: Path, course: LessonPlan) -> Path:
    """Where the classifier is kept that this course makes of this data."""
    made_of = [checksum(dataset), WIDTHS, MOST_PIXELS, MOST_IMAGES, BATCH_IMAGES, HELD_OUT_EVERY, asdict(course)]
    return cache / f"classifier-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}.safetensors"


def _train(
    network: ClassifierNetwork, dataset: Dataset, root: str, process: Process, tick: Tick, course: LessonPlan
) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """Rank 0's weights, and accuracy on images held out; the others wait for each shard and epoch. Collective."""
    train, held_out = real_images(dataset, root, network.pixels, process, tick)
    lesson = Lesson(network, train, course, process.device) if process.is_main else None
    epochs = course.epochs_of(dataset.splits["train"].images)
    for epoch in range(epochs):
        if lesson is not None:
            lesson.learn(epoch, epochs, tick)
        process.barrier()  # so that no collective waits for longer than an epoch
    if lesson is None:
        return None
    weights = {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}
    return weights, {"held_out_accuracy": accuracy(network, held_out, process.device)}


@dataclass(frozen=True)
class Images:
    """Real images uint8 [N, P, P, 3] and their labels int64 [N], in host memory."""

    images: Tensor
    labels: Tensor


def real_images(dataset: Dataset, root: str, pixels: int, process: Process, tick: Tick) -> tuple[Images, Images]:
    """On rank 0, those to learn from and those held out, at most MOST_IMAGES in all; none on the others. Collective.

    Held out are images of the data set's own, or a share.
    """
    own = "val" in dataset.splits and dataset.splits["val"].images > 0
    most_held_out = MOST_IMAGES // HELD_OUT_EVERY
    everything = _read(dataset, root, "train", pixels, MOST_IMAGES - most_held_out * own, process, tick)
    if own:
        return everything, _read(dataset, root, "val", pixels, most_held_out, process, tick)
    out = torch.arange(len(everything.labels)) % HELD_OUT_EVERY == 0
    return Images(everything.images[~out], everything.labels[~out]), Images(
        everything.images[out], everything.labels[out]
    )


def _read(dataset: Dataset, root: str, split: str, pixels: int, most: int, process: Process, tick: Tick) -> Images:
    """At most `most`, evenly spaced. Shard by shard, so that no collective waits for longer than one."""
    declared, first = dataset.splits[split], 0
    wanted = frozenset(evenly_spaced(declared.images, most))
    found = [Images(torch.empty(0, pixels, pixels, 3, dtype=torch.uint8), torch.empty(0, dtype=torch.long))]
    for shard in declared.shards:
        numbers = wanted.intersection(range(first, first + shard.images)) if process.is_main else frozenset()
        found.append(process.together(partial(_of_shard, dataset, root, shard, first, numbers, pixels)))
        first += shard.images
        tick("real images for the classifier", first, declared.images)
    return Images(torch.cat([part.images for part in found]), torch.cat([part.labels for part in found]))


def _of_shard(dataset: Dataset, root: str, shard: Shard, first: int, numbers: frozenset[int], pixels: int) -> Images:
    """Those of `numbers`, where the shard's first image has number `first`; without numbers, it is not opened."""
    images = torch.empty(len(numbers), pixels, pixels, 3, dtype=torch.uint8)
    labels: list[int] = []
    for number, sample in enumerate(readable_in(dataset, root, shard) if numbers else (), first):
        if number in numbers and sample.image is not None:
            images[len(labels)] = shrunk(torch.from_numpy(as_rgb(sample.image).copy())[None], pixels).round()[0]
            labels.append(sample.label)
    return Images(images[: len(labels)], torch.tensor(labels, dtype=torch.long))


class Lesson:
    """A network that learns from images, an epoch at a time, everything drawn keyed by the seed."""

    def __init__(self, network: ClassifierNetwork, train: Images, course: LessonPlan, device: torch.device):
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._train, self._course, self._device = train, course, device
        self._sgd = torch.optim.SGD(
            network.parameters(), course.peak_lr, momentum=0.9, nesterov=True, weight_decay=course.weight_decay
        )

    def learn(self, epoch: int, epochs: int, tick: Tick) -> None:
        """One epoch of `epochs`; the learning rate rises for a quarter of them, and falls to 0."""
        random = keyed_generator("classifier", self._course.seed, epoch)
        batches = torch.randperm(len(self._train.labels), generator=random).split(BATCH_IMAGES)
        self._network.train()
        for k, batch in enumerate(batches):
            done = (epoch * len(batches) + k) / (epochs * len(batches))
            for group in self._sgd.param_groups:
                group["lr"] = self._course.peak_lr * min(done / 0.25, (1 - done) / 0.75)
            images = shifted(self._train.images[batch], random).to(self._device)
            labels = self._train.labels[batch].to(self._device)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=has_bfloat16(self._device)):
                logits = self._network(images)[1].float()
            loss = F.cross_entropy(logits, labels, label_smoothing=self._course.label_smoothing)
            self._sgd.zero_grad()
            loss.backward()
            self._sgd.step()
            tick("training the classifier", epoch * len(batches) + k + 1, epochs * len(batches))
        self._network.eval()


def shifted(images: Tensor, random: torch.Generator) -> Tensor:
    """Each of [n, R, R, 3] moved by up to an eighth of its size, edges repeated.

    Not mirrored: a mirrored digit is none.
    """
    n, r = images.shape[:2]
    most = r // 8
    by = torch.randint(-most, most + 1, (2, n, 1), generator=random)
    rows, columns = (torch.arange(r) + by).clamp(0, r - 1)
    return images[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


@torch.no_grad()
def accuracy(network: ClassifierNetwork, real: Images, device: torch.device) -> float:
    """Share of images (one at least) whose class the network reads."""
    right = 0
    for images, labels in zip(real.images.split(BATCH_IMAGES), real.labels.split(BATCH_IMAGES), strict=True):
        right += int((network(images.to(device))[1].argmax(1).cpu() == labels).sum())
    return right / len(real.labels)
