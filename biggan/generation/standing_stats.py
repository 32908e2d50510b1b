"""Standing statistics: BatchNorm statistics taken anew, for one truncation, on a copy (Brock et al. 2018, section 3).

The running statistics of training are those of untruncated latents and of weights that have moved since; a
generator that is sampled with them at another truncation is not the one that was meant.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from biggan.generation.truncation import truncated_latents
from biggan.models.batchnorm import CrossReplicaBatchNorm
from biggan.models.networks import Generator
from biggan.random import keyed_generator

BATCHES = 16
BATCH_IMAGES = 64
"""The protocol of this package: statistics of so many batches, each of so many images of random classes."""


@torch.no_grad()
def standing_statistics(
    generator: Generator,
    truncation: float | None,
    batches: int = BATCHES,
    batch_images: int = BATCH_IMAGES,
    seed: int = 0,
    on_batch: Callable[[], object] = lambda: None,
) -> Generator:
    """A copy in evaluation mode whose BatchNorm means and variances are the averages over `batches` batches.

    Latents are drawn at `truncation`, keyed by (seed, batch), labels uniformly; the generator itself is not touched.
    `on_batch()` is called after each batch, for whoever shows progress.
    """
    copied = copy.deepcopy(generator).eval()
    norms = [module for module in copied.modules() if isinstance(module, CrossReplicaBatchNorm)]
    device = next(copied.parameters()).device
    for norm in norms:
        # Not `train()`, which would reach its gain and bias: spectral norm's vectors must not move.
        norm.training = True
        norm.process_group = None
    for k in range(batches):
        for norm in norms:
            norm.momentum = 1 / (k + 1)  # a running average becomes the mean of all batches so far
        random = keyed_generator("standing", seed, k)
        z = truncated_latents(copied, (batch_images,), truncation, random)
        y = torch.randint(copied.classes, (batch_images,), generator=random)
        copied(z.to(device), y.to(device))
        on_batch()
    return copied.eval()
