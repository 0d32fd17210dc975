"""The hyperprior: side information through z, estimated, encoded and decoded in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssmctx.entropy.bitstream.checksums import checksum
from ssmctx.entropy.coders import Coder
from ssmctx.entropy.factorized_prior import FactorizedPrior
from ssmctx.entropy.graphs import called
from ssmctx.entropy.streams import to_symbols
from ssmctx.errors import ArgumentError, ShapeError
from ssmctx.stages import stage

__all__ = ["CodedSide", "EstimatedSide", "Hyperprior", "Rounding", "straight_through"]

Rounding = Callable[[Tensor], Tensor]
"""Elementwise rounding function, used instead of `torch.round`."""


class EstimatedSide(NamedTuple):
    """Side information, and what z costs.

    Attributes:
        side: h_s(z_hat) at y's size, (batch, 2M, H, W).
        symbols: of z, (batch, hyper_channels, h, w), integers.
        likelihoods: of z, of the same shape.
    """

    side: Tensor
    symbols: Tensor
    likelihoods: Tensor


class CodedSide(NamedTuple):
    """Side information, as encoder and decoder have it.

    Attributes:
        side: h_s(z_hat) at y's size, (1, 2M, H, W).
        symbols: of z, (1, hyper_channels, h, w), integers.
        checksum: of z's symbols.
        stream: of z.
        size: height and width of z.
    """

    side: Tensor
    symbols: Tensor
    checksum: int
    stream: bytes
    size: tuple[int, int]


class Hyperprior(nn.Module):
    r"""h_a, h_s and the prior of z; derive from it, as `MambaICEntropyModel` does.

    $$ q_z = \mathrm{round}(g_z h_a(y) - m), \quad \hat z = (q_z + m) / g_z, \quad \mathrm{side} = h_s(\hat z) $$

    with m the medians of the prior and g_z a gain, 1 unless the model has qualities.

    Args:
        M: channels of y.
        hyper_channels: channels of z.
        h_a: y (batch, M, H, W) to z (batch, hyper_channels, h, w).
        h_s: z_hat to (batch, 2M, H, W) or larger, which is cropped at the right and bottom.

    Source:
        Balle et al., Variational image compression with a scale hyperprior, 2018; MambaIC section 3.1.
    """

    _needs: ClassVar[dict[str, tuple[str, ...]]] = {
        "entropy_bottleneck": ("quantiles", "medians", "tables", "update", "loss", "likelihood")
    }
    """Attributes that a model needs of its parts besides calling them; wrappers such as DataParallel hide them."""

    def __init__(self, M: int, hyper_channels: int, h_a: nn.Module, h_s: nn.Module) -> None:
        super().__init__()
        self.M, self.hyper_channels = M, hyper_channels
        self.h_a, self.h_s = h_a, h_s
        self.entropy_bottleneck = FactorizedPrior(hyper_channels)

    def __setattr__(self, name: str, value: Any) -> None:
        hidden = [method for method in self._needs.get(name, ()) if not hasattr(value, method)]
        if hidden and value is not None:
            raise ArgumentError(
                f"{type(self).__name__}: {name} needs {', '.join(hidden)}, and {type(value).__name__} has none: wrap "
                "the whole model or modules inside, or forward these to the wrapped module"
            )
        super().__setattr__(name, value)

    def estimate_side(self, y: Tensor, gain: Tensor | None, rounding: Rounding | None = None) -> EstimatedSide:
        """Side information, z's symbols and their likelihoods.

        In training z_hat is rounded with straight-through gradients, and the likelihoods are those of additive uniform
        noise.

        Args:
            y: latent (batch, M, H, W).
            gain: of z, (batch or 1, hyper_channels, 1, 1); None for 1.
            rounding: replaces both; the likelihoods are those of its result.
        """
        z = self._analyse(y, gain)
        with stage("entropy_bottleneck"):
            if rounding is None:
                _, likelihoods, medians = self.entropy_bottleneck(z, None, "medians")
                rounded = straight_through(z - medians) if self.training else torch.round(z - medians)
            else:
                medians = self.entropy_bottleneck.medians()
                rounded = rounding(z - medians)
                likelihoods = self.entropy_bottleneck.likelihood(rounded + medians)
        return EstimatedSide(self._synthesise(rounded, medians, gain, y.shape[2:]), rounded, likelihoods)

    def encode_side(self, y: Tensor, gain: Tensor | None, coder: Coder) -> CodedSide:
        """Code z of one image, y (1, M, H, W)."""
        z = self._analyse(y, gain)
        medians = self.entropy_bottleneck.medians()
        rounded = torch.round(z - medians)
        symbols = to_symbols(rounded)
        with stage("coder"):
            encoder = coder.encoder()
            encoder.encode(symbols, self._z_rows(z.shape[2:]), self.entropy_bottleneck.tables())
            stream = encoder.finish()
        side = self._synthesise(rounded, medians, gain, y.shape[2:])
        return CodedSide(side, rounded, checksum(symbols), stream, (z.shape[2], z.shape[3]))

    def decode_side(
        self, coded: bytes, size: torch.Size, y_size: torch.Size, gain: Tensor | None, coder: Coder
    ) -> CodedSide:
        """Decode z of one image.

        Args:
            coded: its stream.
            size: height and width of z.
            y_size: height and width of y.
            gain: as it was encoded with.
            coder: that wrote the stream.

        Raises:
            CorruptStreamError: no encoder can have written the stream.
        """
        medians = self.entropy_bottleneck.medians()
        with stage("coder"):
            decoder = coder.decoder(coded)
            symbols = decoder.decode(self._z_rows(size), self.entropy_bottleneck.tables())
            decoder.finish()
        rounded = torch.from_numpy(symbols).to(medians.device).to(medians.dtype).view(1, -1, *size)
        side = self._synthesise(rounded, medians, gain, y_size)
        return CodedSide(side, rounded, checksum(symbols), coded, (size[0], size[1]))

    def _analyse(self, y: Tensor, gain: Tensor | None) -> Tensor:
        with stage("h_a"):
            z = called(self.h_a, _in_rows(y))
        return z if gain is None else z * gain

    def _synthesise(self, rounded: Tensor, medians: Tensor, gain: Tensor | None, size: torch.Size) -> Tensor:
        z_hat = rounded + medians
        with stage("h_s"):
            side = called(self.h_s, _in_rows(z_hat if gain is None else z_hat / gain))
        if side.dim() != 4 or side.shape[1] != 2 * self.M or side.shape[2] < size[0] or side.shape[3] < size[1]:
            raise ShapeError(
                f"h_s must give (batch, {2 * self.M}, H, W), H and W at least {tuple(size)}; got {tuple(side.shape)}"
            )
        # in z's precision, where autocast made it in less: y_hat and the likelihoods follow it
        return side[..., : size[0], : size[1]].to(z_hat.dtype).contiguous()

    def _z_rows(self, size: torch.Size) -> NDArray[np.uint16]:
        return np.repeat(np.arange(self.hyper_channels, dtype=np.uint16), size.numel())


def straight_through(x: Tensor) -> Tensor:
    """Rounded, with the gradient of x."""
    return x + (torch.round(x) - x).detach()


def _in_rows(x: Tensor) -> Tensor:
    """x in torch's own order of memory: convolutions round differently where, say, channels come last."""
    return x.clone(memory_format=torch.contiguous_format)
