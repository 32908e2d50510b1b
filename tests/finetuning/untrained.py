"""Source networks that are untrained, but differ from newly initialized ones."""

import torch

from biggan.models.networks import initialize

CLASSES = ("7", "x", "3", "y")


def randomized(network, seed=0):
    """Perturb the weights, so that power iteration is far from converged and attention has an effect."""
    torch.manual_seed(seed)
    initialize(network, "orthogonal")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


@torch.no_grad()
def move_statistics(G, D):
    """Move BatchNorm's statistics and the vectors of power iteration a little."""
    y = torch.arange(24) % G.classes
    D(G(torch.randn(24, G.z_dim), y), y)
    return G, D
