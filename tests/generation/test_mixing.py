import numpy as np
import pytest
import torch
from bounds import FEW_OPERATIONS32
from sampling_run import CLASSES, small_generator

from biggan.cli.sample_command import mixture_label, parse_mixture
from biggan.errors import InputError
from biggan.generation.interpolation import mix_classes
from biggan.generation.sample import generate_rows

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")


def test_mixture_of_one_class_equals_the_class_bit_for_bit():
    generator = small_generator()
    mixed = mix_classes(generator, [{k: weight} for k, weight in ((2, 1.0), (0, 0.3), (3, 7.0))])
    assert torch.equal(mixed, generator.class_embedding.weight[[2, 0, 3]])
    mixed = mix_classes(generator, [{2: 1.0, 1: 0.0}, {0: 3.0}])
    assert np.array_equal(
        generate_rows(generator, mixed, 3, 0.8, 1, CPU), generate_rows(generator, [2, 0], 3, 0.8, 1, CPU)
    )


def test_gains_and_biases_of_a_mixture_are_weighted_means():
    generator = small_generator()
    mixed = mix_classes(generator, [{1: 0.7, 3: 0.3}, {1: 7.0, 3: 3.0}])
    assert torch.equal(mixed[0], mixed[1])
    z_chunk = torch.randn(1, 4)
    for map_ in (generator.blocks[1].bn2.gain, generator.blocks[2].bn1.bias):
        of_class = [map_(torch.cat([generator.class_embedding.weight[k][None], z_chunk], 1)) for k in (1, 3)]
        expected = 0.7 * of_class[0] + 0.3 * of_class[1]
        torch.testing.assert_close(map_(torch.cat([mixed[:1], z_chunk], 1)), expected, rtol=1e-5, atol=FEW_OPERATIONS32)


def test_generator_without_shared_embedding_cannot_mix():
    with pytest.raises(InputError, match=r"model\.class_embedding_dim: 0"):
        mix_classes(small_generator(class_embedding_dim=0), [{0: 1.0}])


def test_mixtures_are_parsed_or_refused():
    assert parse_mixture("cat=0.7, dog = 0.3", CLASSES) == {2: 0.7, 3: 0.3}
    assert parse_mixture("0=1,ant=2", CLASSES) == {0: 3.0}
    assert parse_mixture("a=b=2", ("a=b", "c")) == {0: 2.0}
    assert mixture_label({2: 2.0, 3: 1.0}, CLASSES) == "66.7% cat, 33.3% dog"
    for wrong in ("cat", "cat=", "cat=x", "cat=-1", "cat=nan", "cat=inf", "", "cat=1,,dog=1"):
        with pytest.raises(InputError, match=r"^--mix: .* NAME=WEIGHT"):
            parse_mixture(wrong, CLASSES)
    with pytest.raises(InputError, match=r"^--mix: 'cat=0,dog=0'"):
        parse_mixture("cat=0,dog=0", CLASSES)
    with pytest.raises(InputError, match=r"^--mix: .*'catt'.* cat; .* 0 .* 3"):
        parse_mixture("catt=1", CLASSES)
