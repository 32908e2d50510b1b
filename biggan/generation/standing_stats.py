"""Standing statistics: BatchNorm statistics recomputed for one truncation (Brock et al. 2018, section 3).

The running statistics of training belong to untruncated latents, and to weights that have moved since. A generator that
is sampled with them at another truncation normalizes with the wrong means and variances.
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
"""Default number of batches."""
BATCH_IMAGES = 64
"""Default number of images in a batch, of random classes."""


@torch.no_grad()
def standing_statistics(
    generator: Generator,
    truncation: float | None,
    batches: int = BATCHES,
    batch_images: int = BATCH_IMAGES,
    seed: int = 0,
    on_batch: Callable[[], object] = lambda: None,
) -> Generator:
    """Return a copy in evaluation mode whose BatchNorm means and variances are averages over `batches` batches.

    Latents are drawn at `truncation`, keyed by (seed, batch); labels are drawn uniformly. `generator` is not changed.
    `on_batch()` is called after each batch, to show progress.
    """
    copied = copy.deepcopy(generator).eval()
    norms = [module for module in copied.modules() if isinstance(module, CrossReplicaBatchNorm)]
    device = next(copied.parameters()).device
    for norm in norms:
        # Not `train()`: it would reach the layers of gain and bias too, whose spectral norm vectors must not move.
        norm.training = True
        norm.process_group = None
    for k in range(batches):
        for norm in norms:
            norm.momentum = 1 / (k + 1)  # makes the running average the mean of all batches so far
        random = keyed_generator("standing", seed, k)
        z = truncated_latents(copied, (batch_images,), truncation, random)
        y = torch.randint(copied.classes, (batch_images,), generator=random)
        copied(z.to(device), y.to(device))
        on_batch()
    return copied.eval()
