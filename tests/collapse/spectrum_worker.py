"""Runs under torchrun: compares the sharded spectrum with that of a single process."""

import torch
from torch import nn

from biggan.collapse.spectrum import Spectrum
from biggan.distributed.process import join
from biggan.models.biggan import BigGANDiscriminator, BigGANGenerator


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    G = BigGANGenerator(32, 4, classes=5, z_dim=8, class_embedding_dim=4, hierarchical=False, attention=[16])
    return {"G": G, "D": BigGANDiscriminator(32, 4, classes=5, attention=[16])}


def drift(networks):
    for parameter in (p for network in networks.values() for p in network.parameters()):
        parameter.data += 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))


STACKED = {"rtol": 1e-5, "atol": 1e-6}
"""Layers measured alone or in a stack take other float32 kernels, and stop after the same number of passes."""


def flattened(values):
    return torch.tensor([[*v.raw, *[v.raw[-1]] * (3 - len(v.raw)), v.scale or 0.0] for v in values.values()])


with join(60) as process:
    trained = networks()
    full = Spectrum(trained, 3, 0, 1)
    sharded = Spectrum(trained, 3, process.rank, process.world_size)
    own = sharded.measure()
    shards = process.gather(set(own))
    assert sum(map(len, shards)) == len(set().union(*shards)) == len(sharded.layers)
    if process.world_size > 1:
        assert all(0 < len(shard) < len(sharded.layers) for shard in shards)
    sharded.restore({})
    alone = full.measure()
    for _ in range(2):
        together = sharded.measure_all(process)
        assert tuple(together) == sharded.layers == full.layers
        assert process.gather(together) == [together] * process.world_size
        alone = {name: alone[name] for name in together}
        torch.testing.assert_close(flattened(together), flattened(alone), **STACKED)
        state = sharded.state(process)
        assert state.keys() == set(sharded.layers)
        drift(trained)
        alone = full.measure()
    expected = sharded.measure_all(process)
    resumed = Spectrum(trained, 3, process.rank, process.world_size)
    resumed.restore(state)
    assert resumed.measure_all(process) == expected
    elsewhere = Spectrum(trained, 3, 0, 1)  # one process resumes from the bases of several
    elsewhere.restore(state)
    found = elsewhere.measure()
    found = {name: found[name] for name in expected}
    torch.testing.assert_close(flattened(found), flattened(expected), **STACKED)
