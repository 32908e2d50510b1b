"""Released BigGAN-deep generators are imported as exports that generate the same images."""

import json
import re

import pytest
import torch
from importing.released import N_STATS, Z_DIM, Forward, released_tensors, write_released

from biggan import load_generator
from biggan.generation.truncation import draw_latents


@pytest.fixture
def exported(run_command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    write_released(tmp_path / "released")
    code, output = run_command("import", tmp_path / "released", tmp_path / "ours", "--truncations", "0.5")
    assert code == 0, output
    assert [f.name for f in (tmp_path / "ours").iterdir()] == ["export"]
    assert "no discriminator" in output
    assert re.search(r"latent.* 12, .*truncated at 2", output)
    return tmp_path / "ours" / "export"


@pytest.mark.numeric
def test_images_are_equal_at_every_truncation(exported):
    tensors, G = released_tensors(), load_generator(exported, device="cpu")
    z = torch.randn(3, Z_DIM, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([4, 0, 2])
    images = {}
    with torch.no_grad():
        for truncation in (0.02, 0.43, 0.5, 1.0, None):
            at = G.at(truncation)
            images[truncation] = at.network(z, y)
            expected = Forward(tensors, z, y, truncation or 1.0).images()
            # Float32's rounding over 30 layers: 8e-6 was the most. Statistics of the next truncation give 1e-2.
            assert (images[truncation] - expected).abs().max() <= 1e-4, truncation
    assert (images[0.5] - images[0.43]).abs().max() > 1e-2
    assert torch.equal(images[None], images[1.0])


def test_latents_are_scaled_and_the_export_states_it(exported):
    G = load_generator(exported, truncation=0.5, device="cpu")
    z = draw_latents(range(2), G.network, None, 7)
    assert z.abs().max() <= 2
    assert (G.sample([1, 3], seed=7) == G.images(0.5 * z, torch.tensor([1, 3]))).all()
    information = json.loads((exported / "generator.json").read_text())
    assert information["architecture"]["scaled_latents"] is True
    assert "multiplied" in information["statistics"]["protocol"]
    assert len(information["statistics"]["truncations"]) == N_STATS
    assert (information["step"], information["images_seen"]) == (None, None)
    assert re.search(r"12 .* at 2 .*multiplied", (exported / "README.md").read_text())
