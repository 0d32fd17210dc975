"""Where the bits go: bits per latent position, for each coding step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mambaic.codec import MambaIC


@dataclass(frozen=True)
class BitMap:
    """Bits of one coding step.

    Attributes:
        slice_index: which slice the step codes part of.
        part: "anchors", "non-anchors", or "all" where a slice is coded in one pass.
        bits: (H, W), summed over the slice's channels; NaN where the step codes nothing.
    """

    slice_index: int
    part: str
    bits: Tensor

    @property
    def total(self) -> float:
        """Bits of the whole step."""
        return float(self.bits.nansum())


@torch.no_grad()
def bit_maps(model: MambaIC, x: Tensor) -> list[BitMap]:
    """The bits of an image, from likelihoods, a map for each coding step; z's are not among them.

    Args:
        model: the codec, in evaluation mode.
        x: image (1, 3, H, W) in [0, 1].
    """
    order = model.latent_codec.context.order
    bits = -torch.log2(model(x)["likelihoods"]["y"][0]).cpu()
    size = (bits.shape[1], bits.shape[2])
    maps = []
    for step in range(order.num_steps):
        positions = order.positions(step, size)
        summed = bits[order.channels(step)].sum(0)
        part = "all" if order.passes == 1 else "anchors" if order.is_anchor(step) else "non-anchors"
        maps.append(BitMap(order.slice_index(step), part, summed.where(positions, torch.nan)))
    return maps
