"""The released BigGAN-deep generators: their layout as its package has it, and a forward pass of our own of it."""

import json

import pytest
import torch
from torch.nn import functional as F

from biggan import load_generator
from biggan.generation.latents import draw_latents

CHANNELS, EMBEDDING, Z_DIM, CLASSES, N_STATS, EPS = 4, 8, 12, 5, 51, 1e-4
LAYERS = [
    [False, 16, 16], [True, 16, 16], [False, 16, 16], [True, 16, 8], [False, 8, 8],
    [True, 8, 4], [False, 4, 4], [True, 4, 2], [False, 2, 2], [True, 2, 1],
]  # fmt: skip
POSITION = 8
CONFIG = {
    "attention_layer_position": POSITION, "channel_width": CHANNELS, "class_embed_dim": EMBEDDING, "eps": EPS,
    "layers": LAYERS, "n_stats": N_STATS, "num_classes": CLASSES, "output_dim": 128, "z_dim": Z_DIM,
}  # fmt: skip


def made():
    """Tensors by their names. The vectors of spectral norm are those of one power iteration, far from converged."""
    random, tensors = torch.Generator().manual_seed(3), {}

    def draw(*shape):
        return torch.randn(shape, generator=random)

    def normed(name, *shape):
        weight = draw(*shape)
        v = F.normalize(draw(shape[0]) @ weight.flatten(1), dim=0)
        u = F.normalize(weight.flatten(1) @ v, dim=0)
        tensors.update({f"{name}.weight_orig": weight, f"{name}.weight_u": u, f"{name}.weight_v": v})

    def statistics(name, channels):
        slope = torch.linspace(1, 2, N_STATS)[:, None]
        tensors[f"{name}.running_means"] = slope * draw(channels)
        tensors[f"{name}.running_vars"] = slope * (0.5 + torch.rand(channels, generator=random))

    condition = Z_DIM + EMBEDDING
    tensors["embeddings.weight"] = draw(EMBEDDING, CLASSES)
    normed("generator.gen_z", 16 * 16 * CHANNELS, condition)
    tensors["generator.gen_z.bias"] = draw(16 * 16 * CHANNELS)
    place = 0
    for k, (_, inputs, outputs) in enumerate(LAYERS):
        if k == POSITION:
            wide = inputs * CHANNELS
            for part, o, i in (("theta", wide // 8, wide), ("phi", wide // 8, wide), ("g", wide // 2, wide)):
                normed(f"generator.layers.{place}.snconv1x1_{part}", o, i, 1, 1)
            normed(f"generator.layers.{place}.snconv1x1_o_conv", wide, wide // 2, 1, 1)
            tensors[f"generator.layers.{place}.gamma"] = torch.tensor([0.7])
            place += 1
        i, o, narrow = inputs * CHANNELS, outputs * CHANNELS, inputs * CHANNELS // 4
        for j, (a, b, size) in enumerate([(i, narrow, 1), (narrow, narrow, 3), (narrow, narrow, 3), (narrow, o, 1)]):
            name = f"generator.layers.{place}"
            normed(f"{name}.conv_{j}", b, a, size, size)
            tensors[f"{name}.conv_{j}.bias"] = draw(b)
            normed(f"{name}.bn_{j}.scale", a, condition)
            normed(f"{name}.bn_{j}.offset", a, condition)
            statistics(f"{name}.bn_{j}", a)
        place += 1
    statistics("generator.bn", CHANNELS)
    tensors["generator.bn.weight"], tensors["generator.bn.bias"] = draw(CHANNELS), draw(CHANNELS)
    normed("generator.conv_to_rgb", CHANNELS, CHANNELS, 3, 3)
    tensors["generator.conv_to_rgb.bias"] = draw(CHANNELS)
    return tensors


def forward(tensors, z, y, truncation):
    """Images, as the package makes them; between two steps of the statistics, on the line between them."""
    index = truncation * (N_STATS - 1)

    def weight(name):
        w, u, v = (tensors[f"{name}.weight_{part}"] for part in ("orig", "u", "v"))
        return w / (u @ w.flatten(1) @ v)

    def at(table):
        before, after = table[int(index + 1e-9)], table[min(int(index + 1e-9) + 1, N_STATS - 1)]
        return torch.lerp(before, after, index - int(index + 1e-9))

    def norm(name, x):
        mean, var = (at(tensors[f"{name}.{kind}"])[:, None, None] for kind in ("running_means", "running_vars"))
        return (x - mean) / (var + EPS).sqrt()

    def conditional(name, x):
        maps = (weight(f"{name}.{part}") for part in ("scale", "offset"))
        scale, offset = (F.linear(condition, of_condition)[:, :, None, None] for of_condition in maps)
        return norm(name, x) * (1 + scale) + offset

    def doubled(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def attended(name, x):
        n, c, h, w = x.shape
        theta, phi, g = (F.conv2d(x, weight(f"{name}.snconv1x1_{part}")) for part in ("theta", "phi", "g"))
        phi, g = F.max_pool2d(phi, 2).flatten(2), F.max_pool2d(g, 2).flatten(2)
        share = (theta.flatten(2).transpose(1, 2) @ phi).softmax(-1)
        found = (g @ share.transpose(1, 2)).view(n, c // 2, h, w)
        return x + tensors[f"{name}.gamma"] * F.conv2d(found, weight(f"{name}.snconv1x1_o_conv"))

    condition = torch.cat([z, F.linear(F.one_hot(y, CLASSES).float(), tensors["embeddings.weight"])], 1)
    h = F.linear(condition, weight("generator.gen_z"), tensors["generator.gen_z.bias"])
    h = h.view(-1, 4, 4, 16 * CHANNELS).permute(0, 3, 1, 2)
    place = 0
    for k, (doubling, _, outputs) in enumerate(LAYERS):
        if k == POSITION:
            h = attended(f"generator.layers.{place}", h)
            place += 1
        x, name = h, f"generator.layers.{place}"
        for j in range(4):
            h = F.relu(conditional(f"{name}.bn_{j}", h))
            h = doubled(h) if doubling and j == 1 else h
            h = F.conv2d(h, weight(f"{name}.conv_{j}"), tensors[f"{name}.conv_{j}.bias"], padding=j in (1, 2))
        x = x[:, : outputs * CHANNELS]
        h = h + (doubled(x) if doubling else x)
        place += 1
    h = norm("generator.bn", h) * tensors["generator.bn.weight"][:, None, None]
    h = F.relu(h + tensors["generator.bn.bias"][:, None, None])
    h = F.conv2d(h, weight("generator.conv_to_rgb"), tensors["generator.conv_to_rgb.bias"], padding=1)
    return h[:, :3].tanh()


def write_released(folder, tensors=None, **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    torch.save(made() if tensors is None else tensors, folder / "pytorch_model.bin")


@pytest.fixture
def exported(run_command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    write_released(tmp_path / "released")
    code, output = run_command("import", tmp_path / "released", tmp_path / "ours", "--truncations", "0.5")
    assert code == 0, output
    assert [f.name for f in (tmp_path / "ours").iterdir()] == ["export"]
    assert "no discriminator" in output
    assert "12, whole in every block, cut at 2, truncation multiplies it" in output
    return tmp_path / "ours" / "export"


def test_it_makes_the_same_images_at_every_truncation(exported):
    tensors, G = made(), load_generator(exported, device="cpu")
    z = torch.randn(3, Z_DIM, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([4, 0, 2])
    images = {}
    with torch.no_grad():
        for truncation in (0.02, 0.43, 0.5, 1.0, None):
            at = G.at(truncation)
            images[truncation] = at.network(z, y)
            expected = forward(tensors, z, y, 1.0 if truncation is None else truncation)
            assert (images[truncation] - expected).abs().max() <= 1e-4, truncation
    assert (images[0.5] - images[0.43]).abs().max() > 1e-2
    assert torch.equal(images[None], images[1.0])


def test_its_latents_are_scaled_and_it_says_so(exported):
    G = load_generator(exported, truncation=0.5, device="cpu")
    z = draw_latents(range(2), G.network, None, 7)
    assert z.abs().max() <= 2
    assert (G.sample([1, 3], seed=7) == G.images(0.5 * z, torch.tensor([1, 3]))).all()
    information = json.loads((exported / "generator.json").read_text())
    assert information["architecture"]["scaled_latents"] is True
    assert "multiplied by the truncation" in information["statistics"]["protocol"]
    assert len(information["statistics"]["truncations"]) == N_STATS
    assert (information["step"], information["images_seen"]) == (None, None)
    assert (
        "12 numbers, normally distributed, cut at 2 and multiplied by the truncation"
        in (exported / "README.md").read_text()
    )
