"""The entropy model of MambaIC: hyperprior, context and Gaussian model, as one latent codec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.latent_codecs import LatentCodec
from compressai.ops import LowerBound
from torch import Tensor, nn

from ssmctx.context.base import ContextModel
from ssmctx.context.channel_spatial import ChannelSpatialContext
from ssmctx.entropy.coder import CodingTables, StreamDecoder, StreamEncoder
from ssmctx.entropy.gaussian import SCALE_MIN, gaussian_likelihood, gaussian_tables, scale_index, scale_levels
from ssmctx.entropy.hyper import HyperSynthesis, hyper_analysis
from ssmctx.entropy.steps import Step, coding_steps, drive
from ssmctx.errors import ArgumentError, NonFiniteError, NotUpdatedError, ShapeError
from ssmctx.layers.checks import check_picture, check_positive

__all__ = ["MambaICEntropyModel"]

_TABLE_BUFFERS = ("_offset", "_quantized_cdf", "_cdf_length")


class MambaICEntropyModel(LatentCodec):  # type: ignore[misc]  # compressai carries no types
    r"""Hyperprior, channel-spatial context and Gaussian model: a latent codec for y.

    $$ q = \mathrm{round}(y - \mu), \quad \hat y = q + \mu, \quad
    p(q) = \mathcal N(0, \sigma^2) * \mathcal U(-\tfrac12, \tfrac12), \quad
    (\mu, \sigma) = \mathrm{context}(\hat y_{<t}, h_s(\hat z)) $$

    One loop, `coding_steps`, estimates, encodes and decodes. Outside training every picture of a batch is processed
    alone, so that what it decodes to
    does not depend on its company. In training, y_hat and z_hat are rounded with straight-through gradients and the
    rates are those of additive uniform noise.

    Args:
        M: channels of y.
        num_slices: slices of the default context.
        hyper_channels: channels of z.
        context: a context model over M channels; default `ChannelSpatialContext(M, num_slices)`.
        h_a: y to z; default two strided convolutions around two VSS blocks.
        h_s: z_hat to 2M channels at y's size or larger (cropped at the right and bottom); default two stacks that
            mirror h_a.
        N: half the width of the default h_a and h_s.

    Raises:
        ArgumentError: the context is made for another number of channels, or a size is below 1.

    Source:
        MambaIC sections 3.1 and 3.2, appendix C.

    Example:
        >>> model = MambaICEntropyModel(M=20, hyper_channels=12, N=8).eval()
        >>> _ = model.update()
        >>> y = torch.randn(1, 20, 5, 7)
        >>> coded = model.compress(y)
        >>> decoded = model.decompress(coded["strings"], coded["shape"])
        >>> torch.equal(decoded["y_hat"], model(y)["y_hat"])
        True
    """

    def __init__(
        self,
        M: int = 320,
        num_slices: int = 5,
        hyper_channels: int = 192,
        context: ContextModel | None = None,
        h_a: nn.Module | None = None,
        h_s: nn.Module | None = None,
        N: int = 128,
    ) -> None:
        super().__init__()
        check_positive("MambaICEntropyModel", M=M, num_slices=num_slices, hyper_channels=hyper_channels, N=N)
        self.M, self.hyper_channels = M, hyper_channels
        self.context = ChannelSpatialContext(M, num_slices) if context is None else context
        if self.context.order.num_channels != M:
            raise ArgumentError(
                f"MambaICEntropyModel: the context must have M={M} channels, got {self.context.order.num_channels}"
            )
        self.h_a = hyper_analysis(M, 2 * N, hyper_channels) if h_a is None else h_a
        self.h_s = HyperSynthesis(M, 2 * N, hyper_channels) if h_s is None else h_s
        self.entropy_bottleneck = EntropyBottleneck(hyper_channels)
        self.scale_bound = LowerBound(SCALE_MIN)

    # --- CompressAI's contract

    def forward(self, y: Tensor) -> dict[str, Any]:
        """Quantise y and estimate its rate.

        Args:
            y: latent (batch, M, H, W).

        Returns:
            "y_hat" (batch, M, H, W) and "likelihoods", a dict of "y" (y's shape) and "z" (z's shape); the sum of -log2
            of them is the rate in bits.

        Raises:
            ShapeError: y is no (batch, M, H, W).
        """
        check_picture("MambaICEntropyModel", y, self.M, "y")
        pictures = [self._estimate(part) for part in ([y] if self.training else torch.split(y, 1))]
        return {
            "y_hat": torch.cat([y_hat for y_hat, _, _ in pictures]),
            "likelihoods": {
                "y": torch.cat([likelihood for _, likelihood, _ in pictures]),
                "z": torch.cat([likelihood for _, _, likelihood in pictures]),
            },
        }

    @torch.no_grad()
    def compress(self, y: Tensor) -> dict[str, Any]:
        """Encode y into two streams a picture.

        Args:
            y: latent (batch, M, H, W).

        Returns:
            "strings" [y's streams, z's streams], each a list of bytes per picture; "shape" {"y": (H, W), "hyper": (h,
            w)} in latent cells; "y_hat".

        Raises:
            ShapeError: y is no (batch, M, H, W).
            NonFiniteError: y holds NaN or an infinity.
            NotUpdatedError: `update()` was not called.
        """
        check_picture("MambaICEntropyModel", y, self.M, "y")
        if not bool(y.isfinite().all()):
            raise NonFiniteError(
                "MambaICEntropyModel: y must be finite, got NaN or an infinity; check input and weights"
            )
        with _evaluating(self):
            pictures = [self._encode(part) for part in torch.split(y, 1)]
        y_streams, z_streams, y_hats, hyper_shapes = zip(*pictures, strict=True)
        return {
            "strings": [list(y_streams), list(z_streams)],
            "shape": {"y": (y.shape[2], y.shape[3]), "hyper": hyper_shapes[0]},
            "y_hat": torch.cat(y_hats),
        }

    @torch.no_grad()
    def decompress(
        self, strings: Sequence[Sequence[bytes]], shape: Mapping[str, Sequence[int]], **_: Any
    ) -> dict[str, Any]:
        """Decode what `compress` made.

        Args:
            strings: [y's streams, z's streams], a stream of each per picture.
            shape: {"y": (H, W), "hyper": (h, w)} in latent cells.

        Returns:
            "y_hat" (batch, M, H, W), bit for bit the encoder's on the same machine.

        Raises:
            ArgumentError: strings or shape have another form.
            CorruptStreamError: a stream cannot be one of ours.
            NotUpdatedError: `update()` was not called.
        """
        sizes = _check_coded(strings, shape)
        with _evaluating(self):
            y_hats = [self._decode(y_stream, z_stream, *sizes) for y_stream, z_stream in zip(*strings, strict=True)]
        return {"y_hat": torch.cat(y_hats)}

    def update(self, force: bool = False) -> bool:
        """Build the coding tables of z from its learned prior; call it after training.

        Returns whether anything was built.
        """
        return bool(self.entropy_bottleneck.update(force=force))

    def aux_loss(self) -> Tensor:
        """Loss that fits the quantiles of z's prior; for the auxiliary optimiser."""
        loss: Tensor = self.entropy_bottleneck.loss()
        return loss

    # --- one picture (or, in training, one batch)

    def _estimate(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y_hat and the likelihoods of y and z."""
        z = self.h_a(y)
        _, z_likelihood = self.entropy_bottleneck(z)
        medians = self._medians()
        side = self._side(self._round(z - medians) + medians, y.shape[2:])
        likelihood = torch.ones_like(y)

        def quantised(step: Step) -> Tensor:
            nonlocal likelihood
            residual = y[:, step.channels] - step.mean
            q = self._round(residual)
            scale = self.scale_bound(step.scale)
            if self.training:
                p = gaussian_likelihood(residual + torch.rand_like(residual) - 0.5, scale)
            else:  # the coder works with the tabled scales
                p = gaussian_likelihood(q, scale_levels(scale)[scale_index(scale)])
            p = torch.where(step.positions, p, likelihood[:, step.channels])
            likelihood = likelihood.slice_scatter(p, 1, step.channels.start, step.channels.stop)
            return q

        y_hat = drive(coding_steps(self.context, side), quantised)
        return y_hat, likelihood, z_likelihood

    def _encode(self, y: Tensor) -> tuple[bytes, bytes, Tensor, tuple[int, int]]:
        """Streams of y and z, y_hat, and the size of z."""
        z = self.h_a(y)
        medians = self._medians()
        z_symbols = torch.round(z - medians)
        z_encoder = StreamEncoder()
        z_encoder.encode(z_symbols, self._z_indexes(z.shape[2:]), self._z_tables())
        side = self._side(z_symbols + medians, y.shape[2:])
        encoder = StreamEncoder()

        def quantised(step: Step) -> Tensor:
            q = torch.round(y[:, step.channels] - step.mean)
            indexes = scale_index(step.scale)[..., step.positions]
            encoder.encode(q[..., step.positions], indexes, gaussian_tables())
            return q

        y_hat = drive(coding_steps(self.context, side), quantised)
        return encoder.finish(), z_encoder.finish(), y_hat, (z.shape[2], z.shape[3])

    def _decode(self, y_stream: bytes, z_stream: bytes, size: torch.Size, hyper_size: torch.Size) -> Tensor:
        """y_hat of one picture."""
        medians = self._medians()
        z_symbols = StreamDecoder(z_stream).decode(self._z_indexes(hyper_size), self._z_tables())
        side = self._side(z_symbols.to(medians.dtype) + medians, size)
        decoder = StreamDecoder(y_stream)

        def quantised(step: Step) -> Tensor:
            indexes = scale_index(step.scale)[..., step.positions]
            q = torch.zeros_like(step.mean)
            q[..., step.positions] = decoder.decode(indexes, gaussian_tables()).to(q.dtype)
            return q

        return drive(coding_steps(self.context, side), quantised)

    # --- pieces

    def _round(self, x: Tensor) -> Tensor:
        return x + (torch.round(x) - x).detach() if self.training else torch.round(x)

    def _side(self, z_hat: Tensor, size: torch.Size) -> Tensor:
        side: Tensor = self.h_s(z_hat)
        if side.dim() != 4 or side.shape[1] != 2 * self.M or side.shape[2] < size[0] or side.shape[3] < size[1]:
            raise ShapeError(
                f"h_s must give (batch, {2 * self.M}, H, W), H and W at least {tuple(size)}; got {tuple(side.shape)}"
            )
        return side[..., : size[0], : size[1]].contiguous()

    def _medians(self) -> Tensor:
        """Medians of z's prior, (1, hyper_channels, 1, 1); they learn through the auxiliary loss only."""
        medians: Tensor = self.entropy_bottleneck.quantiles[:, 0, 1].detach()
        return medians[None, :, None, None]

    def _z_tables(self) -> CodingTables:
        bottleneck = self.entropy_bottleneck
        if bottleneck.quantized_cdf.numel() == 0:
            raise NotUpdatedError(
                "MambaICEntropyModel has no coding tables: call update() after training, before coding"
            )
        return CodingTables(
            bottleneck.quantized_cdf.tolist(), bottleneck.cdf_length.tolist(), bottleneck.offset.tolist()
        )

    def _z_indexes(self, size: torch.Size) -> Tensor:
        channels = torch.arange(self.hyper_channels, device=self.entropy_bottleneck.quantiles.device)
        return channels[None, :, None, None].expand(1, -1, *size)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # update() changes the size of these buffers: take the loaded size, whichever of the two models was updated
        device = self.entropy_bottleneck.quantiles.device
        for name in _TABLE_BUFFERS:
            stored = state_dict.get(f"{prefix}entropy_bottleneck.{name}")
            if stored is not None:
                setattr(self.entropy_bottleneck, name, torch.empty_like(stored, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for the while: dropped paths or the like must not reach a stream."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


def _check_coded(
    strings: Sequence[Sequence[bytes]], shape: Mapping[str, Sequence[int]]
) -> tuple[torch.Size, torch.Size]:
    if len(strings) != 2 or len(strings[0]) != len(strings[1]) or not strings[0]:
        counts = [len(streams) for streams in strings]
        raise ArgumentError(
            f"strings must be [y's streams, z's streams], one of each per picture, got lists of lengths {counts}"
        )
    sizes = []
    for key in ("y", "hyper"):
        size = shape.get(key) if isinstance(shape, Mapping) else None
        if size is None or len(size) != 2 or min(size) < 1:
            raise ArgumentError(f'shape must be {{"y": (H, W), "hyper": (h, w)}} in latent cells, got {shape!r}')
        sizes.append(torch.Size(size))
    return sizes[0], sizes[1]
