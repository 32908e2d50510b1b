"""Run under torchrun: every process's share of the spectrum, against one process's whole."""

import torch
from torch import nn

from biggan.collapse.spectrum import Spectrum
from biggan.distributed.process import join
from biggan.models.biggan import BigGANDiscriminator, BigGANGenerator


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    G = BigGANGenerator(32, 4, classes=5, z_dim=8, class_embedding_dim=4, hierarchical=False, attention=[16])
    return {"G": G, "D": BigGANDiscriminator(32, 4, classes=5, attention=[16])}


def drift(these):
    for parameter in (p for network in these.values() for p in network.parameters()):
        parameter.data += 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))


def flattened(found):
    return torch.tensor([[*v.raw, *[v.raw[-1]] * (3 - len(v.raw)), v.scale or 0.0] for v in found.values()])


with join(60) as process:
    trained = networks()
    whole = Spectrum(trained, 3, 0, 1)
    shared = Spectrum(trained, 3, process.rank, process.world_size)
    mine = shared.measure()
    shares = process.gather(set(mine))
    assert sum(map(len, shares)) == len(set().union(*shares)) == len(shared.layers)
    if process.world_size > 1:
        assert all(0 < len(share) < len(shared.layers) for share in shares)
    shared.restore({})
    alone = whole.measure()
    for _ in range(2):
        together = shared.measure_all(process)
        assert tuple(together) == shared.layers == whole.layers
        assert process.gather(together) == [together] * process.world_size
        alone = {name: alone[name] for name in together}
        torch.testing.assert_close(flattened(together), flattened(alone), rtol=1e-5, atol=1e-6)
        state = shared.state(process)
        assert state.keys() == set(shared.layers)
        drift(trained)
        alone = whole.measure()
    expected = shared.measure_all(process)
    resumed = Spectrum(trained, 3, process.rank, process.world_size)
    resumed.restore(state)
    assert resumed.measure_all(process) == expected
    elsewhere = Spectrum(trained, 3, 0, 1)  # one process goes on from the bases of several
    elsewhere.restore(state)
    found = elsewhere.measure()
    found = {name: found[name] for name in expected}
    torch.testing.assert_close(flattened(found), flattened(expected), rtol=1e-5, atol=1e-6)
