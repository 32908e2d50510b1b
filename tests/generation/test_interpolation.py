import math

import numpy as np
import pytest
import torch
from biggan.generation.interpolation_spec import Over, Path, Route
from sampling_run import small_generator

from biggan.errors import InputError
from biggan.generation.interpolation import between, class_pairs, great_circle, interpolate, mix_classes
from biggan.generation.sample import generate
from biggan.generation.truncation import draw_latents

CPU = torch.device("cpu")
SHARES = torch.tensor([0.0, 0.1, 0.5, 0.75, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-5, 1.0, math.pi / 2, 3.1, math.pi - 1e-5])
def test_the_great_circle_of_two_unit_vectors_in_closed_form(angle):
    a = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    b = torch.tensor([math.cos(angle), 0, math.sin(angle)], dtype=torch.float64)
    points = great_circle(a, b, SHARES[:, None])
    along = SHARES * angle
    expected = torch.stack([along.cos(), torch.zeros(5, dtype=torch.float64), along.sin()], 1)
    torch.testing.assert_close(points, expected, rtol=1e-10, atol=1e-15 / math.cos(angle / 2))


def test_lengths_change_evenly_and_angles_too_in_many_dimensions():
    torch.manual_seed(0)
    a, b = torch.randn(2, 6, 1, 128, dtype=torch.float64) * torch.rand(2, 6, 1, 1) * 3
    points = great_circle(a, b, SHARES[:, None])
    lengths = points.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.lerp(a.norm(dim=-1), b.norm(dim=-1), SHARES), rtol=1e-12, atol=0)
    whole = torch.acos((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)))
    so_far = torch.acos(((a * points).sum(-1) / (a.norm(dim=-1) * lengths)).clamp(-1, 1))
    torch.testing.assert_close(so_far, whole * SHARES, rtol=1e-9, atol=1e-7)
    backwards = great_circle(b, a, 1 - SHARES[:, None])
    torch.testing.assert_close(backwards, points, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", Path)
def test_both_ends_are_what_was_given_to_the_bit(path):
    torch.manual_seed(0)
    a, b = torch.randn(2, 40, 128)
    points = between(a, b, Route(Over.Z, path, 7))
    assert points.shape == (40, 7, 128)
    assert points.dtype == torch.float32
    assert torch.equal(points[:, 0], a)
    assert torch.equal(points[:, -1], b)
    assert torch.equal(between(a, a, Route(Over.Z, path, 3)), a[:, None].expand(-1, 3, -1))


def test_the_line_leaves_the_sphere_that_the_circle_stays_on():
    a, b = torch.eye(8)[None, 0], torch.eye(8)[None, 1]
    line, circle = (between(a, b, Route(Over.Z, path, 3))[0, 1].norm() for path in (Path.LINE, Path.CIRCLE))
    assert line == pytest.approx(1 / math.sqrt(2))
    assert circle == pytest.approx(1)


def test_ends_without_one_great_circle_are_refused():
    a = torch.randn(4, generator=torch.Generator().manual_seed(0))[None]
    for b in (-a, -3 * a, torch.zeros(1, 4)):
        with pytest.raises(InputError, match="opposite or zero"):
            between(a, b, Route(Over.Z, Path.CIRCLE, 3))
    torch.testing.assert_close(between(a, 3 * a, Route(Over.Z, Path.CIRCLE, 3))[0, 1], 2 * a[0])


def strips(over, path=Path.CIRCLE, steps=5, classes=(2, 0, 3), per_pair=2, generator=None):
    generator = generator or small_generator()
    pairs = class_pairs(over, classes)
    return interpolate(generator, Route(over, path, steps), pairs, per_pair, 0.9, 7, CPU)


def images_of(numbers, labels):
    z = torch.cat([draw_latents(range(k, k + 1), small_generator(), 0.9, 7) for k in numbers])
    return generate(small_generator(), z, torch.tensor(labels), CPU)


def test_strips_go_from_an_image_of_the_seed_to_the_next():
    # Strip j of pair i is number s = j * pairs + i: its ends are latents 2s and 2s + 1.
    over_z = strips(Over.Z)
    assert over_z.shape == (6, 5, 32, 32, 3)
    assert np.array_equal(over_z[:, 0], images_of([0, 6, 2, 8, 4, 10], [2, 2, 0, 0, 3, 3]))
    assert np.array_equal(over_z[:, -1], images_of([1, 7, 3, 9, 5, 11], [2, 2, 0, 0, 3, 3]))
    both = strips(Over.BOTH)
    assert np.array_equal(both[:, 0], images_of([0, 4, 2, 6], [2, 2, 0, 0]))
    assert np.array_equal(both[:, -1], images_of([1, 5, 3, 7], [0, 0, 3, 3]))
    over_class = strips(Over.CLASS)
    assert np.array_equal(over_class[:, 0], images_of([0, 4, 2, 6], [2, 2, 0, 0]))
    assert np.array_equal(over_class[:, -1], images_of([0, 4, 2, 6], [0, 0, 3, 3]))
    assert np.array_equal(strips(Over.CLASS, per_pair=1), over_class[[0, 2]])


def test_a_hierarchical_z_goes_on_the_circle_of_the_whole():
    a, b = draw_latents(range(2), small_generator(), 0.9, 7).double().numpy()
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    angle = np.arccos(a @ b / lengths[0] / lengths[1])
    middle = np.sin(angle / 2) / np.sin(angle) * (a / lengths[0] + b / lengths[1]) * np.mean(lengths)
    expected = generate(small_generator(), torch.from_numpy(middle).float()[None], torch.tensor([2]), CPU)[0]
    found = strips(Over.Z, steps=3)[0, 1].astype(int)
    assert np.abs(found - expected).max() <= 1  # a rounding of z may be one of a pixel
    assert np.abs(found - strips(Over.Z, Path.LINE, steps=3)[0, 1]).max() > 1


def test_half_way_on_the_line_between_classes_is_their_even_mixture():
    found = strips(Over.CLASS, Path.LINE, steps=3, per_pair=1)[:, 1]
    generator = small_generator()
    z = torch.cat([draw_latents(range(k, k + 1), small_generator(), 0.9, 7) for k in (0, 2)])
    mixed = mix_classes(generator, [{2: 1, 0: 1}, {0: 5, 3: 5}])
    assert np.abs(found.astype(int) - generate(generator, z, mixed, CPU)).max() <= 1


def test_without_a_shared_embedding_only_z_changes():
    generator = small_generator(class_embedding_dim=0)
    assert strips(Over.Z, generator=generator).shape == (6, 5, 32, 32, 3)
    for over in (Over.CLASS, Over.BOTH):
        with pytest.raises(InputError, match="no shared class embedding"):
            strips(over, generator=generator)


def test_one_class_goes_over_into_nothing():
    with pytest.raises(InputError, match="name two or more"):
        class_pairs(Over.BOTH, [3])
    assert class_pairs(Over.Z, [3]) == [(3, 3)]
