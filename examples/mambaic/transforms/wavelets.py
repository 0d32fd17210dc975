"""Where training starts from: transforms that are a Haar wavelet packet, so that a new codec already shows an image.

Convolutions drawn at random lose most of an image, and training spends its first thousands of steps on finding low
frequencies. Of each 2x2 Haar step only the subbands of largest expected energy are kept; g_s is the transpose of g_a.
Everything else that the layers hold starts near zero, and training takes it from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
_COLOUR_ENERGY = (1.0, 0.05, 0.015)  # of luminance and two colour differences, as in photographs
_CORRELATION = 0.95  # of neighbouring pixels
_HAAR = np.array([[1, 1], [1, -1]]) / 2**0.5
_REST = 0.03  # of a variance-preserving start, for all weights that are no wavelet
_BLOCK = 16  # pixels along a side of a cosine block
_VARIANCE = (
    0.15  # of the luminance axis of photographs in [0, 1], which is sqrt(3) times as long as that of grey levels
)


@dataclass(frozen=True)
class _Packet:
    """A separable basis function over a square of pixels, of one colour axis."""

    energy_of_colour: float
    down: NDArray[np.float64]
    across: NDArray[np.float64]

    def split(self, i: int, j: int) -> _Packet:
        """The packet twice as large that filter i downwards and j across make of this one."""
        return _Packet(self.energy_of_colour, np.kron(_HAAR[i], self.down), np.kron(_HAAR[j], self.across))

    def energy(self) -> float:
        """Expected square of its coefficient."""
        index = np.arange(len(self.down))
        covariance = _CORRELATION ** np.abs(index[:, None] - index)
        return self.energy_of_colour * (self.down @ covariance @ self.down) * (self.across @ covariance @ self.across)


@torch.no_grad()
def start_as_wavelets(g_a: Sequence[nn.Module], g_s: Sequence[nn.Module], gain: float) -> None:
    """Make g_s(g_a(x)) a projection on the first wavelets, for x in [0, 1].

    Args:
        g_a: with strided convolutions, of which the first takes RGB.
        g_s: with as many strided deconvolutions, its mirror image.
        gain: quantisation steps of y per unit of an orthonormal coefficient.
    """
    downs = [layer for layer in g_a if isinstance(layer, nn.Conv2d)]
    ups = [layer for layer in reversed(list(g_s)) if isinstance(layer, nn.ConvTranspose2d)]
    packets = [_Packet(energy, np.ones(1), np.ones(1)) for energy in _COLOUR_ENERGY]
    for number, (down, up) in enumerate(zip(downs, ups, strict=True)):
        found = [(c, i, j, packet.split(i, j)) for c, packet in enumerate(packets) for i in (0, 1) for j in (0, 1)]
        found = sorted(found, key=lambda entry: -entry[3].energy())[: down.out_channels]
        packets = [packet for *_, packet in found]
        first = down.kernel_size[0] // 2  # the taps on pixels 2i and 2i + 1, where padding never reaches
        taps = slice(first, first + 2)
        for layer in (down, up):
            nn.init.normal_(layer.weight, std=_REST * (down.in_channels * down.kernel_size[0] ** 2) ** -0.5)
            nn.init.zeros_(layer.bias)
        for channel, (c, i, j, _) in enumerate(found):
            inputs = _COLOURS[c] if number == 0 else np.eye(down.in_channels)[c]
            wavelet = torch.from_numpy(inputs[:, None, None] * np.outer(_HAAR[i], _HAAR[j]))
            for layer in (down, up):
                layer.weight[channel, :, taps, taps] = wavelet.to(layer.weight)
    downs[0].bias -= 0.5 * downs[0].weight.sum((1, 2, 3))
    ups[0].bias += 0.5  # mid-grey
    downs[-1].weight *= gain
    ups[-1].weight /= gain


def cosine_blocks(count: int) -> tuple[torch.Tensor, list[float]]:
    """Blocks of the cosine transform of 16 x 16 pixels in three colours, those of largest expected energy first.

    Args:
        count: how many, at most 768.

    Returns:
        Orthonormal blocks (count, 3, 16, 16), and the expected squares of their coefficients.

    Examples:
        >>> from mambaic.transforms.wavelets import cosine_blocks
        >>> blocks, energies = cosine_blocks(2)
        >>> blocks.shape, round(blocks[0].square().sum().item(), 3), energies[0] > energies[1]
        (torch.Size([2, 3, 16, 16]), 1.0, True)
    """
    index = np.arange(_BLOCK)
    cosines = np.cos(np.pi * (index + 0.5) * index[:, None] / _BLOCK) * (2 / _BLOCK) ** 0.5
    cosines[0] /= 2**0.5
    covariance = _CORRELATION ** np.abs(index[:, None] - index)
    energy = ((cosines @ covariance) * cosines).sum(1)
    found = [
        (of_colour * energy[i] * energy[j], c, i, j)
        for c, of_colour in enumerate(_COLOUR_ENERGY)
        for i in index
        for j in index
    ]
    found = sorted(found, key=lambda entry: -entry[0])[:count]
    blocks = [_COLOURS[c][:, None, None] * np.outer(cosines[i], cosines[j]) for _, c, i, j in found]
    return torch.from_numpy(np.stack(blocks)).float(), [_VARIANCE * float(energy) for energy, *_ in found]
