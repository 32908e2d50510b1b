"""Networks to begin from that have not been trained, and yet are no fresh ones."""

import torch

from biggan.models.networks import initialize

CLASSES = ("7", "x", "3", "y")


def lively(network, seed=0):
    """Weights of no scheme, so that power iteration is far from its end, and attention that does something."""
    torch.manual_seed(seed)
    initialize(network, "orthogonal")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


@torch.no_grad()
def used(G, D):
    """Move BatchNorm's statistics and the vectors of power iteration a little."""
    y = torch.arange(24) % G.classes
    D(G(torch.randn(24, G.z_dim), y), y)
    return G, D
