import math

import numpy as np
import pytest
import torch
from bounds import SUMS64
from sampling_run import small_generator
from torch.nn import functional as F

from biggan.errors import InputError
from biggan.generation.arguments import InterpolatedInput, Interpolation, InterpolationPath
from biggan.generation.interpolation import between, class_pairs, interpolate, mix_classes, slerp
from biggan.generation.sample import generate
from biggan.generation.truncation import draw_latents

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
Z, CLASS, BOTH = InterpolatedInput
CIRCLE, LINE = InterpolationPath
FRACTIONS = torch.tensor([0.0, 0.1, 0.5, 0.75, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-5, 1.0, math.pi / 2, 3.1, math.pi - 1e-5])
def test_slerp_of_two_unit_vectors_equals_the_closed_form(angle):
    a = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    b = torch.tensor([math.cos(angle), 0, math.sin(angle)], dtype=torch.float64)
    points = slerp(a, b, FRACTIONS[:, None])
    along = FRACTIONS * angle
    expected = torch.stack([along.cos(), torch.zeros(5, dtype=torch.float64), along.sin()], 1)
    # The sine of the angle, near 0 at both ends, divides: rounding in b itself is enlarged by 1 / cos(angle / 2).
    torch.testing.assert_close(points, expected, rtol=1e-10, atol=1e-14 / math.cos(angle / 2))


def angle_of(a, b):
    """Angles of vectors, as exact near 0 as elsewhere: an arc cosine has half the digits there."""
    return 2 * torch.asin((F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).norm(dim=-1) / 2)


def test_slerp_changes_lengths_and_angles_linearly_in_many_dimensions():
    torch.manual_seed(0)
    a, b = torch.randn(2, 6, 1, 128, dtype=torch.float64) * torch.rand(2, 6, 1, 1) * 3
    points = slerp(a, b, FRACTIONS[:, None])
    lengths = points.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.lerp(a.norm(dim=-1), b.norm(dim=-1), FRACTIONS), rtol=SUMS64, atol=0)
    torch.testing.assert_close(angle_of(a, points), angle_of(a, b) * FRACTIONS, rtol=SUMS64, atol=SUMS64)
    backwards = slerp(b, a, 1 - FRACTIONS[:, None])
    torch.testing.assert_close(backwards, points, rtol=SUMS64, atol=SUMS64)


@pytest.mark.parametrize("path", InterpolationPath)
def test_both_ends_equal_the_inputs_bit_for_bit(path):
    torch.manual_seed(0)
    a, b = torch.randn(2, 40, 128)
    points = between(a, b, Interpolation(Z, path, 7))
    assert points.shape == (40, 7, 128)
    assert points.dtype == torch.float32
    assert torch.equal(points[:, 0], a)
    assert torch.equal(points[:, -1], b)
    assert torch.equal(between(a, a, Interpolation(Z, path, 3)), a[:, None].expand(-1, 3, -1))


def test_line_leaves_the_sphere_and_circle_stays_on_it():
    a, b = torch.eye(8)[None, 0], torch.eye(8)[None, 1]
    line, circle = (between(a, b, Interpolation(Z, path, 3))[0, 1].norm() for path in (LINE, CIRCLE))
    assert line == pytest.approx(1 / math.sqrt(2))
    assert circle == pytest.approx(1)


def test_opposite_and_zero_ends_are_refused():
    a = torch.randn(4, generator=torch.Generator().manual_seed(0))[None]
    for b in (-a, -3 * a, torch.zeros(1, 4)):
        with pytest.raises(InputError, match="--path line"):
            between(a, b, Interpolation(Z, CIRCLE, 3))
    torch.testing.assert_close(between(a, 3 * a, Interpolation(Z, CIRCLE, 3))[0, 1], 2 * a[0])


def strips(over, path=CIRCLE, steps=5, classes=(2, 0, 3), per_pair=2, generator=None):
    generator = generator or small_generator()
    pairs = class_pairs(over, classes)
    return interpolate(generator, Interpolation(over, path, steps), pairs, per_pair, 0.9, 7, CPU)


def images_of(numbers, labels):
    z = torch.cat([draw_latents(range(k, k + 1), small_generator(), 0.9, 7) for k in numbers])
    return generate(small_generator(), z, torch.tensor(labels), CPU)


def test_ends_of_strips_are_images_of_the_seed():
    # Strip j of pair i has index s = j * pairs + i. Its ends are latents 2s and 2s + 1.
    over_z = strips(Z)
    assert over_z.shape == (6, 5, 32, 32, 3)
    assert np.array_equal(over_z[:, 0], images_of([0, 6, 2, 8, 4, 10], [2, 2, 0, 0, 3, 3]))
    assert np.array_equal(over_z[:, -1], images_of([1, 7, 3, 9, 5, 11], [2, 2, 0, 0, 3, 3]))
    both = strips(BOTH)
    assert np.array_equal(both[:, 0], images_of([0, 4, 2, 6], [2, 2, 0, 0]))
    assert np.array_equal(both[:, -1], images_of([1, 5, 3, 7], [0, 0, 3, 3]))
    over_class = strips(CLASS)
    assert np.array_equal(over_class[:, 0], images_of([0, 4, 2, 6], [2, 2, 0, 0]))
    assert np.array_equal(over_class[:, -1], images_of([0, 4, 2, 6], [0, 0, 3, 3]))
    assert np.array_equal(strips(CLASS, per_pair=1), over_class[[0, 2]])


def test_hierarchical_z_is_interpolated_as_one_vector():
    a, b = draw_latents(range(2), small_generator(), 0.9, 7).double().numpy()
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    angle = np.arccos(a @ b / lengths[0] / lengths[1])
    middle = np.sin(angle / 2) / np.sin(angle) * (a / lengths[0] + b / lengths[1]) * np.mean(lengths)
    expected = generate(small_generator(), torch.from_numpy(middle).float()[None], torch.tensor([2]), CPU)[0]
    actual = strips(Z, steps=3)[0, 1].astype(int)
    assert np.abs(actual - expected).max() <= 1  # rounding of z may change a pixel by one
    assert np.abs(actual - strips(Z, LINE, steps=3)[0, 1]).max() > 1


def test_middle_of_the_line_between_classes_is_their_even_mixture():
    middle = strips(CLASS, LINE, steps=3, per_pair=1)[:, 1]
    generator = small_generator()
    z = torch.cat([draw_latents(range(k, k + 1), small_generator(), 0.9, 7) for k in (0, 2)])
    mixed = mix_classes(generator, [{2: 1, 0: 1}, {0: 5, 3: 5}])
    assert np.abs(middle.astype(int) - generate(generator, z, mixed, CPU)).max() <= 1


def test_without_a_shared_embedding_only_z_changes():
    generator = small_generator(class_embedding_dim=0)
    assert strips(Z, generator=generator).shape == (6, 5, 32, 32, 3)
    for over in (CLASS, BOTH):
        with pytest.raises(InputError, match=r"model\.class_embedding_dim: 0"):
            strips(over, generator=generator)


def test_interpolating_classes_needs_two_of_them():
    with pytest.raises(InputError, match=r"^--classes: .*--interpolate both"):
        class_pairs(BOTH, [3])
    assert class_pairs(Z, [3]) == [(3, 3)]
