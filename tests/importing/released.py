"""A released BigGAN-deep generator in its package's layout, and an independent forward pass of it."""

import json

import torch
from torch.nn import functional as F

CHANNELS, EMBEDDING, Z_DIM, CLASSES, N_STATS, EPS = 4, 8, 12, 5, 51, 1e-4
LAYERS = [
    [False, 16, 16], [True, 16, 16], [False, 16, 16], [True, 16, 8], [False, 8, 8],
    [True, 8, 4], [False, 4, 4], [True, 4, 2], [False, 2, 2], [True, 2, 1],
]  # fmt: skip
POSITION = 8
ATTENTION = f"generator.layers.{POSITION}"
CONFIG = {
    "attention_layer_position": POSITION, "channel_width": CHANNELS, "class_embed_dim": EMBEDDING, "eps": EPS,
    "layers": LAYERS, "n_stats": N_STATS, "num_classes": CLASSES, "output_dim": 128, "z_dim": Z_DIM,
}  # fmt: skip


def block(k):
    """Return the name of block `k`. The list of blocks includes attention."""
    return f"generator.layers.{k + (k >= POSITION)}"


class Maker:
    """Builder of random tensors by name. Spectral norm's vectors come from one power iteration, not converged."""

    def __init__(self):
        self.random, self.tensors = torch.Generator().manual_seed(3), {}

    def draw(self, *shape):
        return torch.randn(shape, generator=self.random)

    def normed(self, name, *shape):
        weight = self.draw(*shape)
        v = F.normalize(self.draw(shape[0]) @ weight.flatten(1), dim=0)
        u = F.normalize(weight.flatten(1) @ v, dim=0)
        self.tensors.update({f"{name}.weight_orig": weight, f"{name}.weight_u": u, f"{name}.weight_v": v})

    def statistics(self, name, channels):
        slope = torch.linspace(1, 2, N_STATS)[:, None]
        self.tensors[f"{name}.running_means"] = slope * self.draw(channels)
        self.tensors[f"{name}.running_vars"] = slope * (0.5 + torch.rand(channels, generator=self.random))

    def block(self, name, i, o):
        narrow = i // 4
        for j, (a, b, size) in enumerate([(i, narrow, 1), (narrow, narrow, 3), (narrow, narrow, 3), (narrow, o, 1)]):
            self.normed(f"{name}.conv_{j}", b, a, size, size)
            self.tensors[f"{name}.conv_{j}.bias"] = self.draw(b)
            self.normed(f"{name}.bn_{j}.scale", a, Z_DIM + EMBEDDING)
            self.normed(f"{name}.bn_{j}.offset", a, Z_DIM + EMBEDDING)
            self.statistics(f"{name}.bn_{j}", a)

    def attention(self, name, wide):
        for part, o, i in (("theta", wide // 8, wide), ("phi", wide // 8, wide), ("g", wide // 2, wide)):
            self.normed(f"{name}.snconv1x1_{part}", o, i, 1, 1)
        self.normed(f"{name}.snconv1x1_o_conv", wide, wide // 2, 1, 1)
        self.tensors[f"{name}.gamma"] = torch.tensor([0.7])


def released_tensors():
    """Return all tensors of a generator."""
    maker = Maker()
    maker.tensors["embeddings.weight"] = maker.draw(EMBEDDING, CLASSES)
    maker.normed("generator.gen_z", 16 * 16 * CHANNELS, Z_DIM + EMBEDDING)
    maker.tensors["generator.gen_z.bias"] = maker.draw(16 * 16 * CHANNELS)
    for k, (_, i, o) in enumerate(LAYERS):
        maker.block(block(k), i * CHANNELS, o * CHANNELS)
    maker.attention(ATTENTION, LAYERS[POSITION][1] * CHANNELS)
    maker.statistics("generator.bn", CHANNELS)
    maker.tensors |= {"generator.bn.weight": maker.draw(CHANNELS), "generator.bn.bias": maker.draw(CHANNELS)}
    maker.normed("generator.conv_to_rgb", CHANNELS, CHANNELS, 3, 3)
    maker.tensors["generator.conv_to_rgb.bias"] = maker.draw(CHANNELS)
    return maker.tensors


class Forward:
    """Forward pass on these tensors. Between two truncations with statistics, it interpolates them linearly."""

    def __init__(self, tensors, z, y, truncation):
        self.tensors = tensors
        embedding = F.linear(F.one_hot(y, CLASSES).float(), tensors["embeddings.weight"])
        self.condition = torch.cat([z, embedding], 1)
        self.index = round(truncation * (N_STATS - 1), 6)

    def weight(self, name):
        w, u, v = (self.tensors[f"{name}.weight_{part}"] for part in ("orig", "u", "v"))
        return w / (u @ w.flatten(1) @ v)

    def conv(self, name, x):
        weight = self.weight(name)
        return F.conv2d(x, weight, self.tensors.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def at_truncation(self, table):
        low = int(self.index)
        return torch.lerp(table[low], table[min(low + 1, N_STATS - 1)], self.index - low)[:, None, None]

    def norm(self, name, x):
        mean, var = (self.at_truncation(self.tensors[f"{name}.{kind}"]) for kind in ("running_means", "running_vars"))
        return (x - mean) / (var + EPS).sqrt()

    def conditional(self, name, x):
        scale, offset = (
            F.linear(self.condition, self.weight(f"{name}.{part}"))[:, :, None, None] for part in ("scale", "offset")
        )
        return self.norm(name, x) * (1 + scale) + offset

    def block(self, name, x, doubling, outputs):
        h = x
        for j in range(4):
            h = F.relu(self.conditional(f"{name}.bn_{j}", h))
            h = self.conv(f"{name}.conv_{j}", doubled(h) if doubling and j == 1 else h)
        return h + (doubled(x) if doubling else x)[:, :outputs]

    def attention(self, name, x):
        theta, phi, g = (self.conv(f"{name}.snconv1x1_{part}", x) for part in ("theta", "phi", "g"))
        phi, g = F.max_pool2d(phi, 2).flatten(2), F.max_pool2d(g, 2).flatten(2)
        weights = (theta.flatten(2).transpose(1, 2) @ phi).softmax(-1)
        h = (g @ weights.transpose(1, 2)).view(len(x), -1, *x.shape[2:])
        return x + self.tensors[f"{name}.gamma"] * self.conv(f"{name}.snconv1x1_o_conv", h)

    def images(self):
        h = F.linear(self.condition, self.weight("generator.gen_z"), self.tensors["generator.gen_z.bias"])
        h = h.view(-1, 4, 4, 16 * CHANNELS).permute(0, 3, 1, 2)
        for k, (doubling, _, outputs) in enumerate(LAYERS):
            h = self.attention(ATTENTION, h) if k == POSITION else h
            h = self.block(block(k), h, doubling, outputs * CHANNELS)
        h = self.norm("generator.bn", h) * self.tensors["generator.bn.weight"][:, None, None]
        h = F.relu(h + self.tensors["generator.bn.bias"][:, None, None])
        return self.conv("generator.conv_to_rgb", h)[:, :3].tanh()


def doubled(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def write_released(folder, tensors=None, **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    torch.save(released_tensors() if tensors is None else tensors, folder / "pytorch_model.bin")
