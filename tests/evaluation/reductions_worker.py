"""Run under torchrun: check combined moments and Inception Score of uneven shards (one may be empty)."""

import numpy as np
import torch
from bounds import SUMS64

from biggan.distributed.process import join
from biggan.evaluation.distances import frechet_distance
from biggan.evaluation.inception_score import InceptionScore
from biggan.evaluation.moments import Moments

ROWS, DIM, CHUNK = 101, 8, 16

with join(timeout_seconds=60) as process:
    random = torch.Generator().manual_seed(0)
    rows = (torch.randn(ROWS, DIM, generator=random) * torch.logspace(-2, 2, DIM) + 1e3).double()
    owners = {1: [0], 2: [0, 1, 1], 3: [0, 2, 0, 0]}[process.world_size]  # of three processes, one has no rows
    local, total = Moments(DIM), Moments(DIM)
    local_score, total_score = InceptionScore(ROWS, DIM, splits=4), InceptionScore(ROWS, DIM, splits=4)
    logits = (rows - 1e3) / 10
    total.add(rows)
    total_score.add(0, logits)
    for chunk, first in enumerate(range(0, ROWS, CHUNK)):
        if owners[chunk % len(owners)] == process.rank:
            local.add(rows[first : first + CHUNK])
            local_score.add(first, logits[first : first + CHUNK])
    combined = local.combined(process)
    covariance = torch.from_numpy(np.cov(rows.numpy(), rowvar=False))
    assert combined.count == ROWS
    torch.testing.assert_close(combined.mean, torch.from_numpy(rows.numpy().mean(0)), rtol=SUMS64, atol=0)
    torch.testing.assert_close(
        combined.covariance, covariance, rtol=SUMS64, atol=SUMS64 * float(covariance.abs().max())
    )
    other = Moments(DIM)
    other.add(rows[:50] * 1.1)
    distance = frechet_distance(combined, other)
    # Variances of 1e-4 to 1e4: what rounding does to the covariance is enlarged by (1e8)^(1/2) for the smallest.
    assert abs(distance / frechet_distance(total, other) - 1) < 1e-8, distance
    score = local_score.combined(process).score()
    np.testing.assert_allclose(score, total_score.score(), rtol=SUMS64)
    gathered = process.gather((distance, score, combined.covariance.tolist()))
    assert all(other == gathered[0] for other in gathered), "processes must agree on the best checkpoint"
    if process.world_size == 3:
        empty = Moments(DIM).combined(process)
        assert empty.count == 0
        assert torch.equal(empty.mean, torch.zeros(DIM, dtype=torch.float64))
    print("checked", flush=True)
