"""A small classifier trained on a data set's own real images: features and logits without a download.

With it every metric works offline and on images unlike those that Inception was trained on. It also measures whether
a generated image shows the class it was conditioned on. Rank 0 trains it once and caches it beside the data set.
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
from biggan.data.preview import as_rgb, readable_samples_in_shard
from biggan.distributed.process import Process, has_bfloat16
from biggan.evaluation.features import Extracted
from biggan.evaluation.tensor_file import fits, read_tensors, write_tensors
from biggan.image_grid import evenly_spaced
from biggan.progress import Tick
from biggan.random import keyed_generator

MAX_PIXELS = 64
"""Maximum resolution of the network; larger images are downscaled to it by averaging."""
WIDTHS = (16, 32, 64, 128)
"""Channels at full resolution and after each halving. Further halvings keep the last width."""
BATCH_IMAGES = 128
MAX_IMAGES = 200_000
"""Maximum number of real images, which are held in memory. Of a larger data set, evenly spaced ones are used."""
HELD_OUT_EVERY = 20
"""Interval of held-out images in a data set without a split `val`."""


@dataclass(frozen=True)
class ClassifierPlan:
    """Training hyperparameters: SGD with Nesterov momentum, a one-cycle learning rate, shifted images, bfloat16.

    The names and values of the fields are part of the cache file's name: renaming one retrains every classifier.
    """

    epochs: int = 12
    least_images: int = 60_000
    """Minimum number of images seen in training; a small data set gets more epochs."""
    peak_lr: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    seed: int = 0

    def epochs_of(self, images: int) -> int:
        """Return the number of epochs for a data set of `images` images."""
        return max(self.epochs, math.ceil(self.least_images / images))


class ClassifierBlock(nn.Module):
    """Residual block that halves the resolution: conv - BN - ReLU - conv - BN plus a 1x1 shortcut, then ReLU."""

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
    """Residual network from images uint8 [n, R, R, 3] to (features [n, dim], logits [n, classes]).

    Residual blocks reduce the images to 4 px; the features are the spatial mean.
    """

    def __init__(self, resolution: int, classes: int):
        super().__init__()
        self.pixels = min(resolution, MAX_PIXELS)
        halvings = max(1, math.ceil(math.log2(self.pixels / 4)))
        widths = [WIDTHS[min(k, len(WIDTHS) - 1)] for k in range(halvings + 1)]
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.blocks = nn.Sequential(*(ClassifierBlock(widths[k], widths[k + 1]) for k in range(halvings)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = downscale(images, self.pixels).permute(0, 3, 1, 2)  # channels-last memory: faster convolutions
        features = self.blocks(self.stem(x / 127.5 - 1)).mean((2, 3))
        return features, self.head(features)


def downscale(images: Tensor, pixels: int) -> Tensor:
    """Convert [n, R, R, 3] to float32 [n, pixels, pixels, 3] by area averaging; R is at least `pixels`."""
    x = images.to(torch.float32)
    if images.shape[1] == pixels:
        return x
    return F.interpolate(x.permute(0, 3, 1, 2), size=(pixels, pixels), mode="area").permute(0, 2, 3, 1)


class Classifier:
    """An `Extractor`: the features of a trained `ClassifierNetwork` and its logits of the data set's classes."""

    name = "classifier"

    def __init__(self, network: ClassifierNetwork, held_out_accuracy: float, device: torch.device):
        weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
        self.preprocessing = f"{network.pixels} px, areas averaged"  # compared between results: keep it
        self.identity = f"classifier {hashlib.sha256(save(weights)).hexdigest()[:16]} {self.preprocessing}"
        self.held_out_accuracy: float | None = held_out_accuracy
        self.dim, self.logits = network.head.in_features, network.head.out_features
        self._network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """Return features and logits, as `Extractor` specifies."""
        return Extracted(*self._network(images))


def open_classifier(
    dataset: Dataset, root: str, cache: Path, process: Process, tick: Tick, plan: ClassifierPlan | None = None
) -> Classifier:
    """Return the data set's classifier, read from `cache` or trained by rank 0 and written there. Collective.

    Raises DataError, and InputError if the cache cannot be written, on every process.
    """
    plan = plan or ClassifierPlan()
    file = cache_file(dataset, cache, plan)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = ClassifierNetwork(dataset.resolution, len(dataset.classes))
    saved = process.gather(_cached(file, network) if process.is_main else None)[0]
    if saved is None:
        trained = _train(network, dataset, root, process, tick, plan)
        process.together(lambda: write_tensors(file, *trained) if trained else None)
        saved = process.gather(trained)[0]
    tensors, about = saved
    network.load_state_dict(tensors)
    return Classifier(network, about["held_out_accuracy"], process.device)


def _cached(file: Path, network: ClassifierNetwork) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """Return the cached result of `_train`; None if there is none or it does not fit the network."""
    saved = read_tensors(file)
    if saved is None or not fits(saved[0], network.state_dict()):
        return None
    return saved if isinstance(saved[1].get("held_out_accuracy"), float) else None


def cache_file(dataset: Dataset, cache: Path, plan: ClassifierPlan) -> Path:
    """Return the cache file of the classifier that this plan trains on this data set."""
    key = [checksum(dataset), WIDTHS, MAX_PIXELS, MAX_IMAGES, BATCH_IMAGES, HELD_OUT_EVERY, asdict(plan)]
    return cache / f"classifier-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.safetensors"


def _train(
    network: ClassifierNetwork, dataset: Dataset, root: str, process: Process, tick: Tick, plan: ClassifierPlan
) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """Return weights and held-out accuracy on rank 0, None on others. Collective.

    The other ranks wait for each shard and each epoch.
    """
    train, held_out = load_real_images(dataset, root, network.pixels, process, tick)
    trainer = ClassifierTrainer(network, train, plan, process.device) if process.is_main else None
    epochs = plan.epochs_of(dataset.splits["train"].images)
    for epoch in range(epochs):
        if trainer is not None:
            trainer.train_epoch(epoch, epochs, tick)
        process.barrier()  # so that no collective waits for longer than an epoch
    if trainer is None:
        return None
    weights = {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}
    return weights, {"held_out_accuracy": accuracy(network, held_out, process.device)}


@dataclass(frozen=True)
class LabelledImages:
    """Real images and their labels, in host memory."""

    images: Tensor
    """uint8 [N, P, P, 3]."""
    labels: Tensor
    """int64 [N]."""


def load_real_images(
    dataset: Dataset, root: str, pixels: int, process: Process, tick: Tick
) -> tuple[LabelledImages, LabelledImages]:
    """Return (training images, held-out images): on rank 0 at most MAX_IMAGES in all, on others none. Collective.

    The held-out images are the split `val` if there is one, or else every HELD_OUT_EVERY-th image.
    """
    has_val = "val" in dataset.splits and dataset.splits["val"].images > 0
    max_held_out = MAX_IMAGES // HELD_OUT_EVERY
    train = _read(dataset, root, "train", pixels, MAX_IMAGES - max_held_out * has_val, process, tick)
    if has_val:
        return train, _read(dataset, root, "val", pixels, max_held_out, process, tick)
    held_out = torch.arange(len(train.labels)) % HELD_OUT_EVERY == 0
    return LabelledImages(train.images[~held_out], train.labels[~held_out]), LabelledImages(
        train.images[held_out], train.labels[held_out]
    )


def _read(
    dataset: Dataset, root: str, split: str, pixels: int, limit: int, process: Process, tick: Tick
) -> LabelledImages:
    """Return at most `limit` evenly spaced images. Collective, shard by shard, so that no wait exceeds one shard."""
    declared, first = dataset.splits[split], 0
    selected = frozenset(evenly_spaced(declared.images, limit))
    parts = [LabelledImages(torch.empty(0, pixels, pixels, 3, dtype=torch.uint8), torch.empty(0, dtype=torch.long))]
    for shard in declared.shards:
        numbers = selected.intersection(range(first, first + shard.images)) if process.is_main else frozenset()
        parts.append(process.together(partial(_read_shard, dataset, root, shard, first, numbers, pixels)))
        first += shard.images
        tick("real images for the classifier", first, declared.images)
    return LabelledImages(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def _read_shard(
    dataset: Dataset, root: str, shard: Shard, first: int, numbers: frozenset[int], pixels: int
) -> LabelledImages:
    """Return the images whose numbers are in `numbers`; the shard's first image has number `first`.

    The shard is not opened if `numbers` is empty.
    """
    images = torch.empty(len(numbers), pixels, pixels, 3, dtype=torch.uint8)
    labels: list[int] = []
    for number, sample in enumerate(readable_samples_in_shard(dataset, root, shard) if numbers else (), first):
        if number in numbers and sample.image is not None:
            images[len(labels)] = downscale(torch.from_numpy(as_rgb(sample.image).copy())[None], pixels).round()[0]
            labels.append(sample.label)
    return LabelledImages(images[: len(labels)], torch.tensor(labels, dtype=torch.long))


class ClassifierTrainer:
    """Training of a network, one epoch at a time. All random draws are keyed by the plan's seed."""

    def __init__(self, network: ClassifierNetwork, train: LabelledImages, plan: ClassifierPlan, device: torch.device):
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._train, self._plan, self._device = train, plan, device
        self._sgd = torch.optim.SGD(
            network.parameters(), plan.peak_lr, momentum=0.9, nesterov=True, weight_decay=plan.weight_decay
        )

    def train_epoch(self, epoch: int, epochs: int, tick: Tick) -> None:
        """Train one epoch of `epochs`. The learning rate rises for a quarter of them and then falls to 0."""
        generator = keyed_generator("classifier", self._plan.seed, epoch)
        batches = torch.randperm(len(self._train.labels), generator=generator).split(BATCH_IMAGES)
        self._network.train()
        for k, batch in enumerate(batches):
            done = (epoch * len(batches) + k) / (epochs * len(batches))
            for group in self._sgd.param_groups:
                group["lr"] = self._plan.peak_lr * min(done / 0.25, (1 - done) / 0.75)
            images = shift(self._train.images[batch], generator).to(self._device)
            labels = self._train.labels[batch].to(self._device)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=has_bfloat16(self._device)):
                logits = self._network(images)[1].float()
            loss = F.cross_entropy(logits, labels, label_smoothing=self._plan.label_smoothing)
            self._sgd.zero_grad()
            loss.backward()
            self._sgd.step()
            tick("training the classifier", epoch * len(batches) + k + 1, epochs * len(batches))
        self._network.eval()


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each of [n, R, R, 3] by a random offset of up to R / 8 pixels, with replicated edges.

    Images are not mirrored, because a mirrored digit is not a digit.
    """
    n, r = images.shape[:2]
    limit = r // 8
    offsets = torch.randint(-limit, limit + 1, (2, n, 1), generator=generator)
    rows, columns = (torch.arange(r) + offsets).clamp(0, r - 1)
    return images[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


@torch.no_grad()
def accuracy(network: ClassifierNetwork, real: LabelledImages, device: torch.device) -> float:
    """Return the fraction of images (at least one) that the network classifies correctly."""
    correct = 0
    for images, labels in zip(real.images.split(BATCH_IMAGES), real.labels.split(BATCH_IMAGES), strict=True):
        correct += int((network(images.to(device))[1].argmax(1).cpu() == labels).sum())
    return correct / len(real.labels)
