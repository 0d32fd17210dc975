"""The entropy model of MambaIC: hyperprior, context and Gaussian model, as one latent codec."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.latent_codecs import LatentCodec
from compressai.ops import LowerBound
from numpy.typing import NDArray
from torch import Tensor, nn

from ssmctx.context.base import ContextModel
from ssmctx.context.channel_spatial import ChannelSpatialContext
from ssmctx.entropy.coders import Coder
from ssmctx.entropy.gaussian import SCALE_MIN, gaussian_likelihood, scale_index, scale_levels
from ssmctx.entropy.gaussian_tables import gaussian_tables
from ssmctx.entropy.guard import DEFAULT_BAND, Guard, check_band, checksum
from ssmctx.entropy.hyper import HyperSynthesis, hyper_analysis
from ssmctx.entropy.numerics import coding_numerics
from ssmctx.entropy.steps import Step, coding_steps, drive
from ssmctx.entropy.stored_tables import PreparedTables, StoredTables
from ssmctx.entropy.streams import LatentReader, LatentWriter, to_symbols
from ssmctx.entropy.tables import CodingTables
from ssmctx.errors import ArgumentError, CorruptStreamError, NonFiniteError, NotUpdatedError, ShapeError
from ssmctx.layers.checks import check_image, check_positive
from ssmctx.registry import coders

__all__ = ["MambaICEntropyModel"]

_TABLE_BUFFERS = ("_offset", "_quantized_cdf", "_cdf_length")


class MambaICEntropyModel(LatentCodec):  # type: ignore[misc]  # compressai carries no types
    r"""Hyperprior, channel-spatial context and Gaussian model: a latent codec for y.

    $$ q = \mathrm{round}(y - \mu), \quad \hat y = q + \mu, \quad
    p(q) = \mathcal N(0, \sigma^2) * \mathcal U(-\tfrac12, \tfrac12), \quad
    (\mu, \sigma) = \mathrm{context}(\hat y_{<t}, h_s(\hat z)) $$

    One loop, `coding_steps`, estimates, encodes and decodes. Outside training every picture of a batch is processed
    alone and in full float32, so that what it decodes to does not depend on its company or on autocast; a guard (see
    `ssmctx.entropy.guard`) lets a decoder on another machine follow an encoder whose scales differ by up to
    `guard_band`, and tells when they differ by more. In training, y_hat and z_hat are rounded with straight-through
    gradients and the rates are those of additive uniform noise.

    Args:
        M: channels of y.
        num_slices: slices of the default context.
        hyper_channels: channels of z.
        context: a context model over M channels; default `ChannelSpatialContext(M, num_slices)`.
        h_a: y to z; default two strided convolutions around two VSS blocks.
        h_s: z_hat to 2M channels at y's size or larger (cropped at the right and bottom); default two stacks that
            mirror h_a.
        N: half the width of the default h_a and h_s.
        coder: a name from `ssmctx.registry.coders`.
        guard_band: relative drift of scales that a decoder may have, up to 0.0039; 0 to list nothing.

    Raises:
        ArgumentError: the context is made for another number of channels, a size is below 1, or the band too wide.
        UnknownNameError: an unknown coder.

    Source:
        MambaIC sections 3.1 and 3.2, appendix C.

    Examples:
        >>> import torch
        >>> from ssmctx import MambaICEntropyModel
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
        coder: str = "rans",
        guard_band: float = DEFAULT_BAND,
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
        self.coder: Coder = coders.create(coder)
        self.guard_band = check_band(guard_band)
        self.y_tables = StoredTables(gaussian_tables())
        self._z_prepared = PreparedTables()

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
        check_image("MambaICEntropyModel", y, self.M, "y")
        if self.training:
            pictures = [self._estimate(y)]
        else:
            with coding_numerics(self):
                pictures = [self._estimate(part) for part in torch.split(self._wide(y), 1)]
        return {
            "y_hat": torch.cat([y_hat for y_hat, _, _ in pictures]),
            "likelihoods": {
                "y": torch.cat([likelihood for _, likelihood, _ in pictures]),
                "z": torch.cat([likelihood for _, _, likelihood in pictures]),
            },
        }

    @torch.no_grad()
    def compress(self, y: Tensor) -> dict[str, Any]:
        """Encode y into two streams and a guard a picture.

        Args:
            y: latent (batch, M, H, W).

        Returns:
            "strings" [y's streams, z's streams, guards], each a list of bytes per picture; "shape" {"y": (H, W),
            "hyper": (h, w)} in latent cells; "y_hat".

        Raises:
            ShapeError: y is no (batch, M, H, W).
            NonFiniteError: y holds NaN or an infinity.
            ArgumentError: a residual is beyond 16 bits, or the weights are narrower than float32.
            NotUpdatedError: `update()` was not called.
        """
        check_image("MambaICEntropyModel", y, self.M, "y")
        if not bool(y.isfinite().all()):
            raise NonFiniteError(
                "MambaICEntropyModel: y must be finite, got NaN or an infinity; check input and weights"
            )
        with coding_numerics(self):
            pictures = [self._encode(part) for part in torch.split(self._wide(y), 1)]
        streams, y_hats, hyper_shapes = zip(*pictures, strict=True)
        return {
            "strings": [list(of_a_kind) for of_a_kind in zip(*streams, strict=True)],
            "shape": {"y": (y.shape[2], y.shape[3]), "hyper": hyper_shapes[0]},
            "y_hat": torch.cat(y_hats),
        }

    @torch.no_grad()
    def decompress(
        self, strings: Sequence[Sequence[bytes]], shape: Mapping[str, Sequence[int]], **_: Any
    ) -> dict[str, Any]:
        """Decode what `compress` made.

        Args:
            strings: [y's streams, z's streams, guards], one of each per picture. Without guards the decoder trusts its
                own numbers, as it must with files of version 1.
            shape: {"y": (H, W), "hyper": (h, w)} in latent cells.

        Returns:
            "y_hat" (batch, M, H, W), bit for bit the encoder's on the same machine.

        Raises:
            ArgumentError: strings or shape have another form, or the weights are narrower than float32.
            CorruptStreamError: a stream cannot be one of ours.
            DecodeMismatchError: a step decodes to other symbols than were encoded.
            NotUpdatedError: `update()` was not called.
        """
        sizes = _check_coded(strings, shape)
        with coding_numerics(self):
            y_hats = [self._decode(picture, *sizes) for picture in zip(*strings, strict=True)]
        return {"y_hat": torch.cat(y_hats)}

    def coding_fingerprint(self) -> bytes:
        """4 bytes that tell coder and tables from others; see `ssmctx.entropy.fingerprint` for the weights.

        Raises:
            NotUpdatedError: `update()` was not called.
        """
        tables = self.y_tables.tables().fingerprint() + self._z_tables().fingerprint()
        return hashlib.sha256(self.coder.name.encode() + tables).digest()[:4]

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
        z = self.h_a(_in_rows(y))
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

    def _encode(self, y: Tensor) -> tuple[tuple[bytes, bytes, bytes], Tensor, tuple[int, int]]:
        """Streams of y and z and the guard, y_hat, and the size of z."""
        z = self.h_a(_in_rows(y))
        medians = self._medians()
        z_rounded = torch.round(z - medians)
        z_symbols = to_symbols(z_rounded)
        z_encoder = self.coder.encoder()
        z_encoder.encode(z_symbols, self._z_indexes(z.shape[2:]), self._z_tables())
        side = self._side(z_rounded + medians, y.shape[2:])
        writer = LatentWriter(self.guard_band)

        def quantised(step: Step) -> Tensor:
            q = torch.round(y[:, step.channels] - step.mean)
            writer.write(step, q)
            return q

        y_hat = drive(coding_steps(self.context, side), quantised)
        y_stream, guard = writer.finish(self.coder, self.y_tables.tables(), checksum(z_symbols))
        return (y_stream, z_encoder.finish(), guard), y_hat, (z.shape[2], z.shape[3])

    def _decode(self, strings: tuple[bytes, ...], size: torch.Size, hyper_size: torch.Size) -> Tensor:
        """y_hat of one picture."""
        y_stream, z_stream, *guards = strings
        order = self.context.order
        guard = Guard.from_bytes(guards[0], self.M * size.numel(), order.num_steps) if guards else Guard.none()
        medians = self._medians()
        z_decoder = self.coder.decoder(z_stream)
        z_symbols = z_decoder.decode(self._z_indexes(hyper_size), self._z_tables())
        if guard.checksums and checksum(z_symbols) != guard.checksums[0]:
            raise CorruptStreamError("z decodes to other symbols than were encoded: its stream or the guard is damaged")
        z_hat = torch.from_numpy(z_symbols).to(medians.device).to(medians.dtype).view(1, -1, *hyper_size) + medians
        reader = LatentReader(self.coder, self.y_tables.tables(), y_stream, guard)
        y_hat = drive(coding_steps(self.context, self._side(z_hat, size)), reader.read)
        if guard.checksums:
            z_decoder.finish()
            reader.finish()
        return y_hat

    # --- pieces

    def _round(self, x: Tensor) -> Tensor:
        return x + (torch.round(x) - x).detach() if self.training else torch.round(x)

    def _side(self, z_hat: Tensor, size: torch.Size) -> Tensor:
        side: Tensor = self.h_s(_in_rows(z_hat))
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
        sources = (bottleneck.quantized_cdf, bottleneck.cdf_length, bottleneck.offset)
        return self._z_prepared.of(lambda: CodingTables(*(x.int().cpu().numpy() for x in sources)), *sources)

    def _z_indexes(self, size: torch.Size) -> NDArray[np.uint16]:
        return np.repeat(np.arange(self.hyper_channels, dtype=np.uint16), size.numel())

    def _wide(self, y: Tensor) -> Tensor:
        """y in the weights' precision: autocast may have made it in less."""
        return y.to(self.entropy_bottleneck.quantiles.dtype)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # update() changes the size of these buffers: take the loaded size, whichever of the two models was updated
        device = self.entropy_bottleneck.quantiles.device
        for name in _TABLE_BUFFERS:
            stored = state_dict.get(f"{prefix}entropy_bottleneck.{name}")
            if stored is not None:
                setattr(self.entropy_bottleneck, name, torch.empty_like(stored, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _in_rows(x: Tensor) -> Tensor:
    """x in torch's own order of memory: convolutions round differently where, say, channels come last."""
    return x.clone(memory_format=torch.contiguous_format)


def _check_coded(
    strings: Sequence[Sequence[bytes]], shape: Mapping[str, Sequence[int]]
) -> tuple[torch.Size, torch.Size]:
    counts = [len(streams) for streams in strings]
    if len(counts) not in (2, 3) or len(set(counts)) != 1 or not counts[0]:
        raise ArgumentError(
            "strings must be [y's streams, z's streams, guards], one of each per picture, "
            f"got lists of lengths {counts}"
        )
    sizes = []
    for key in ("y", "hyper"):
        size = shape.get(key) if isinstance(shape, Mapping) else None
        if size is None or len(size) != 2 or min(size) < 1:
            raise ArgumentError(f'shape must be {{"y": (H, W), "hyper": (h, w)}} in latent cells, got {shape!r}')
        sizes.append(torch.Size(size))
    return sizes[0], sizes[1]
