"""Differentiable augmentation: its statistics, its gradients, and that it is each sample's own."""

import pytest
import torch

from biggan.draws import Draws
from biggan.objectives.passes import FAKE, REAL, Samples
from biggan.objectives.views import DiffAugment, cut_out, offsets, recolored, translated

pytestmark = pytest.mark.numeric
N, SIZE = 10_000, 16


def draw(rows, rank=0, world_size=1):
    """Return the draw of one rank's slice of a micro-batch of `rows` rows."""
    return next(iter(Draws(0, 2, 3, rows, 1, rank, world_size, torch.device("cpu"))(1, 0)))


def uniform(columns):
    """Return N rows of uniform numbers."""
    return torch.rand(N, columns, generator=torch.Generator().manual_seed(0))


def test_brightness_saturation_and_contrast_have_their_ranges_and_means():
    """The deviation of a mean of N uniform numbers in a range of width w is w * 0.0029: bounds are five of it."""
    x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)).expand(N, 3, 4, 4) * 2 - 1
    neutral = torch.full((N, 3), 0.5)
    torch.testing.assert_close(recolored(x, neutral), x)

    def only(column):
        u = neutral.clone()
        u[:, column] = uniform(1)[:, 0]
        return recolored(x, u)

    brightness = (only(0) - x).mean((1, 2, 3))
    assert (brightness.min() >= -0.5, brightness.max() <= 0.5) == (True, True)
    assert brightness.mean().item() == pytest.approx(0, abs=0.015)
    gray = x.mean(1, keepdim=True)
    saturation = ((only(1) - gray) / (x - gray)).mean((1, 2, 3))
    assert saturation.min() >= -1e-3
    assert saturation.max() <= 2 + 1e-3
    assert saturation.mean().item() == pytest.approx(1, abs=0.03)
    mean = x.mean((1, 2, 3), keepdim=True)
    contrast = ((only(2) - mean) / (x - mean)).mean((1, 2, 3))
    assert contrast.min() >= 0.5 - 1e-3
    assert contrast.max() <= 1.5 + 1e-3
    assert contrast.mean().item() == pytest.approx(1, abs=0.015)


def test_shifts_are_whole_pixels_up_to_an_eighth_all_equally_likely():
    """A count of 10,000 draws over 5 shifts has the deviation 40: bounds are five of it."""
    x = torch.zeros(N, 1, SIZE, SIZE)
    x[:, :, 8, 8] = 1
    found = translated(x, uniform(2)).flatten(1).argmax(1)
    for axis in (found // SIZE, found % SIZE):
        counts = (axis - 8 + 2).bincount(minlength=5)
        assert len(counts) == 5
        assert all(abs(int(count) - N / 5) < 200 for count in counts)
    assert offsets(torch.tensor([0.0, 0.999999]), 4).flatten().tolist() == [-4, 4]


def test_vacated_pixels_are_0_and_the_others_are_the_images():
    x = torch.arange(1.0, 1 + SIZE * SIZE).view(1, 1, SIZE, SIZE)
    moved = translated(x, torch.tensor([[0.999, 0.0]]))[0, 0]  # read 2 rows below and 2 columns left: content moves
    torch.testing.assert_close(moved[:-2, 2:], x[0, 0, 2:, :-2])
    assert not moved[-2:].any()
    assert not moved[:, :2].any()


def test_the_square_is_half_as_wide_and_its_centre_anywhere():
    """The mean share cut: per axis E|overlap| / size, by counting all 17 places of a square of 8 in 16 pixels."""
    kept = cut_out(torch.ones(N, 1, SIZE, SIZE), uniform(2))
    firsts = [k - SIZE // 4 for k in range(SIZE + 1)]
    overlap = [len(set(range(first, first + 8)) & set(range(SIZE))) / SIZE for first in firsts]
    share = (sum(overlap) / len(overlap)) ** 2
    assert 1 - kept.mean().item() == pytest.approx(share, abs=0.005)
    counts = (1 - kept).flatten(1).sum(1)
    assert counts.max() == 64
    assert set(kept.unique().tolist()) == {0.0, 1.0}


def test_gradients_reach_the_images_where_they_are_kept():
    view = DiffAugment(color=True, translation=True, cutout=True)
    x = (torch.rand(8, 3, SIZE, SIZE) * 2 - 1).requires_grad_()
    view(Samples(x, torch.zeros(8)), FAKE, draw(8)).images.square().sum().backward()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
    assert torch.autograd.gradcheck(
        lambda x: recolored(x, torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))),
        torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True),
    )


def test_rows_kinds_and_processes_have_their_own_numbers():
    view = DiffAugment(color=True, translation=True, cutout=True)
    x = torch.rand(1, 3, SIZE, SIZE).expand(6, 3, SIZE, SIZE)
    whole = {kind: view(Samples(x, torch.zeros(6)), kind, draw(6)).images for kind in (FAKE, REAL)}
    assert not torch.equal(whole[FAKE], whole[REAL])
    assert not torch.equal(whole[FAKE][0], whole[FAKE][1])
    parts = [view(Samples(x[:3], torch.zeros(3)), FAKE, draw(6, rank, 2)).images for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole[FAKE])
