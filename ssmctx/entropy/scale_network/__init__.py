"""Scales of y from integers: the network, its convolutions, and its walk over the latent."""

from ssmctx.entropy.scale_network.network import ScaleNetwork

__all__ = ["ScaleNetwork"]
