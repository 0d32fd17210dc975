"""The entropy model of MambaIC: hyperprior, context and a distribution, as one latent codec."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssmctx.context.base import ContextModel
from ssmctx.distributions import Distribution, resolve_distribution
from ssmctx.entropy.arguments import check_coded, check_zeroing, context_of, scale_network_of
from ssmctx.entropy.bitstream.checksums import Checksums
from ssmctx.entropy.coders import Coder
from ssmctx.entropy.gains import Gain, Quality, QualityGains
from ssmctx.entropy.graphs import walked
from ssmctx.entropy.guard import DEFAULT_BAND, Guard, check_band
from ssmctx.entropy.hyper import HyperSynthesis, hyper_analysis
from ssmctx.entropy.hyperprior import Hyperprior, Rounding, straight_through
from ssmctx.entropy.lower_bound import LowerBound
from ssmctx.entropy.numerics import coding_numerics
from ssmctx.entropy.scale_network import ScaleNetwork
from ssmctx.entropy.scale_network.steps import ScaleWalk, known_scales, scale_steps
from ssmctx.entropy.steps import Step, coding_steps, drive
from ssmctx.entropy.stored_tables import StoredTables
from ssmctx.entropy.streams import LatentReader, LatentWriter, Sections
from ssmctx.entropy.zeroing import ZEROINGS, rounded
from ssmctx.errors import ArgumentError, CorruptStreamError, NonFiniteError
from ssmctx.layers.checks import check_image, check_positive
from ssmctx.lookalike import Lookalike
from ssmctx.registry import coders

__all__ = ["MambaICEntropyModel"]


class MambaICEntropyModel(Lookalike, Hyperprior, of="compressai.latent_codecs:LatentCodec"):
    r"""Hyperprior, channel-spatial context and a distribution: a latent codec for y.

    $$ q = \mathrm{round}((y - \mu)\, g), \quad \hat y = q / g + \mu, \quad
    p(q) = P(\sigma g) * \mathcal U(-\tfrac12, \tfrac12), \quad
    (\mu, \sigma) = \mathrm{context}(\hat y_{<t}, h_s(\hat z)) $$

    with P the distribution and g the gain of a quality, 1 without. One loop, `coding_steps`, estimates, encodes and
    decodes. Outside training every image of a batch is processed alone and in full float32, so that what it decodes to
    is independent of batch composition and of autocast; a guard (see `ssmctx.entropy.guard`) lets a decoder on another
    machine follow an encoder whose scales differ by up to `guard_band`, and checksums tell when they differ by more. In
    training y_hat and z_hat are rounded with straight-through gradients, and the rates are those of additive noise.

    Where CompressAI is loaded, `isinstance(model, compressai.latent_codecs.LatentCodec)` holds.

    Args:
        M: channels of y.
        num_slices: slices of the default context; default 5.
        hyper_channels: channels of z.
        context: a context model over M channels, or a name from `ssmctx.registry.contexts`; default
            `ChannelSpatialContext(M, num_slices)`.
        h_a: y to z; default two strided convolutions around two VSS blocks.
        h_s: z_hat to 2M channels at y's size or larger (cropped at the right and bottom); default two stacks that
            mirror h_a.
        distribution: what y is coded with, a name from `ssmctx.registry.distributions` or an object of
            `ssmctx.distributions.Distribution`.
        N: half the width of the default h_a and h_s; default 128.
        coder: a name from `ssmctx.registry.coders`.
        guard_band: relative drift of scales that a decoder may have, up to 0.0039, default 2^-13; 0 to write no guard.
        qualities: number of qualities, each with learned gains; None for a single-rate model.
        scales: "integer" for a `ScaleNetwork` that gives the scales from symbols of z and of earlier steps, exactly on
            every machine and without a guard; "float" for the same network in floating point; or a `ScaleNetwork`. The
            context then gives the means alone. None takes the context's scales.

    Attributes:
        zeroings: values of `compress(zeroing=)` that an encoder may try, 0 first.

    Raises:
        ArgumentError: the context is made for another number of channels, a size is below 1, the band is too wide, or
            an argument comes beside another that takes its place.
        UnknownNameError: an unknown coder, context or distribution.

    Source:
        MambaIC sections 3.1 and 3.2, appendix C; gains after Cui et al., 2021.

    Examples:
        >>> import torch
        >>> from ssmctx import MambaICEntropyModel
        >>> model = MambaICEntropyModel(M=20, hyper_channels=12, N=8, qualities=3).eval()
        >>> _ = model.update()
        >>> y = torch.randn(1, 20, 5, 7)
        >>> coded = model.compress(y, quality=1.5)
        >>> decoded = model.decompress(coded["strings"], coded["shape"])
        >>> torch.equal(decoded["y_hat"], model(y, quality=1.5)["y_hat"])
        True
    """

    zeroings = ZEROINGS
    _needs: ClassVar[dict[str, tuple[str, ...]]] = Hyperprior._needs | {
        "context": ("order", "begin", "scales", "refine"),
        "scale_network": ("exact", "update", "grid"),
        "gains": ("count",),
        "y_tables": ("tables", "store"),
    }

    def __init__(
        self,
        M: int = 320,
        num_slices: int | None = None,
        hyper_channels: int = 192,
        context: ContextModel | str | None = None,
        h_a: nn.Module | None = None,
        h_s: nn.Module | None = None,
        distribution: str | Distribution = "gaussian",
        N: int | None = None,
        coder: str = "rans",
        guard_band: float | None = None,
        qualities: int | None = None,
        scales: ScaleNetwork | str | None = None,
    ) -> None:
        if h_a is not None and h_s is not None and N is not None:
            raise ArgumentError(
                "MambaICEntropyModel: N configures the default h_a and h_s, but both are given; leave it out"
            )
        context = context_of(M, num_slices, context)
        N = 128 if N is None else N
        check_positive("MambaICEntropyModel", M=M, hyper_channels=hyper_channels, N=N)
        super().__init__(
            M,
            hyper_channels,
            hyper_analysis(M, 2 * N, hyper_channels) if h_a is None else h_a,
            HyperSynthesis(M, 2 * N, hyper_channels, means_only=context.means_only) if h_s is None else h_s,
        )
        self.context = context
        self.distribution = resolve_distribution(distribution)
        self.scale_bound = LowerBound(self.distribution.grid.minimum)
        self.coder: Coder = coders.create(coder)
        self.scale_network = scale_network_of(scales, self.context, hyper_channels, self.distribution.grid)
        if self.exact and guard_band is not None:
            raise ArgumentError("MambaICEntropyModel: scales from integers need no guard; leave guard_band out")
        band = DEFAULT_BAND if guard_band is None else guard_band
        self.guard_band = 0.0 if self.exact else check_band(band, self.distribution.grid)
        self.y_tables = StoredTables(self.distribution.tables(), self.distribution.name)
        self.gains = None if qualities is None else QualityGains(M, hyper_channels, qualities)

    @property
    def exact(self) -> bool:
        """Whether scales come from integers, so that files decode to the same symbols on every machine."""
        return self.scale_network is not None and self.scale_network.exact

    def forward(self, y: Tensor, quality: Quality | None = None) -> dict[str, Any]:
        """Quantise y and estimate its rate.

        Args:
            y: latent (batch, M, H, W).
            quality: 0 to qualities - 1, an integer or between two, or one per image; None for gains of 1.

        Returns:
            "y_hat" (batch, M, H, W) and "likelihoods", a dict of "y" (y's shape) and "z" (z's shape); the sum of -log2
            of them is the rate in bits. Outside training they are those of the tabled scales, and a trained model's
            rate is that of its files. An untrained model's files are smaller: likelihoods go down to 1e-9, 30 bits,
            where the coder spends 16 bits within a table row and about 30 outside.

        Raises:
            ShapeError: y is no (batch, M, H, W), or the context predicts another shape than its step's.
            ArgumentError: a quality out of range, or for a model without qualities.
        """
        if not self.training:
            return self.estimate(y, quality)
        check_image("MambaICEntropyModel", y, self.M, "y")
        return _joined([self._estimate(y, self._gain(quality, len(y)))])

    def estimate(self, y: Tensor, quality: Quality | None = None, rounding: Rounding | None = None) -> dict[str, Any]:
        """`forward` as encoder and decoder compute, in training too, with another rounding where one is given.

        Args:
            y: latent (batch, M, H, W).
            quality: as `forward` takes it.
            rounding: instead of `torch.round`; the rate is differentiable as far as it is.

        Returns:
            "y_hat" and "likelihoods", as `forward` gives them.

        Raises:
            ShapeError: y is no (batch, M, H, W), or the context predicts another shape than its step's.
            ArgumentError: a quality out of range, or for a model without qualities.
        """
        check_image("MambaICEntropyModel", y, self.M, "y")
        gain = self._gain(quality, len(y))
        with coding_numerics(self):
            parts = enumerate(torch.split(self._wide(y), 1))
            return _joined([self._estimate(part, gain.of_image(i), rounding) for i, part in parts])

    @torch.no_grad()
    def compress(self, y: Tensor, quality: float | None = None, zeroing: float = 0.0) -> dict[str, Any]:
        """Encode y: a y stream, a z stream, checksums and a guard per image.

        Args:
            y: latent (batch, M, H, W).
            quality: 0 to qualities - 1, an integer or between two; None for gains of 1.
            zeroing: worth of a bit in rounding, as in `ssmctx.entropy.zeroing.rounded`.

        Returns:
            "strings" [y streams, z streams, checksums, guards], each a list of bytes per image, no guards where scales
            come from integers; "shape" {"y": (H, W), "hyper": (h, w)} in latent cells, and "quality" where one was
            given; "y_hat".

        Raises:
            ShapeError: y is no (batch, M, H, W), or the context predicts another shape than its step's.
            NonFiniteError: y, a mean or a scale holds NaN or an infinity.
            ArgumentError: a residual is beyond 16 bits, the weights are narrower than float32, a quality is out of
                range or for a model without qualities, or zeroing is negative or not finite.
            NotUpdatedError: `update()` was not called.
        """
        check_image("MambaICEntropyModel", y, self.M, "y")
        check_zeroing(zeroing)
        if not bool(y.isfinite().all()):
            raise NonFiniteError(
                "MambaICEntropyModel: y must be finite, got NaN or an infinity; check input and weights"
            )
        with coding_numerics(self):
            gain = self._one_gain(quality, "compress")
            images = [self._encode(part, gain, zeroing) for part in torch.split(self._wide(y), 1)]
        sections, y_hats, hyper_shapes = zip(*images, strict=True)
        shape: dict[str, Any] = {"y": (y.shape[2], y.shape[3]), "hyper": hyper_shapes[0]}
        if quality is not None:
            shape["quality"] = float(quality)
        return {
            "strings": [list(of_a_kind) for of_a_kind in zip(*sections, strict=True)][: self._kinds()],
            "shape": shape,
            "y_hat": torch.cat(y_hats),
        }

    @torch.no_grad()
    def decompress(
        self, strings: Sequence[Sequence[bytes]], shape: Mapping[str, Any], quality: float | None = None
    ) -> dict[str, Any]:
        """Decode what `compress` made.

        Args:
            strings: [y streams, z streams, checksums, guards], as `compress` gave them, one of each per image.
            shape: {"y": (H, W), "hyper": (h, w)} in latent cells, and "quality" where it was coded with one.
            quality: instead of shape["quality"].

        Returns:
            "y_hat" (batch, M, H, W), bit for bit the encoder's on the same machine.

        Raises:
            ArgumentError: strings or shape have another form, the weights are narrower than float32, or a quality is
                out of range or for a model without qualities.
            CorruptStreamError: a stream is invalid.
            DecodeMismatchError: a step decodes to other symbols than were encoded.
            NotUpdatedError: `update()` was not called.
        """
        images, size, hyper_size = check_coded(strings, shape, self._kinds())
        known = shape.get("quality")
        if quality is not None and known is not None and quality != known:
            raise ArgumentError(f"the latent was coded with quality {known}, decompress got quality={quality}")
        with coding_numerics(self):
            gain = self._one_gain(known if quality is None else quality, "decompress")
            y_hats = [self._decode(sections, size, hyper_size, gain) for sections in images]
        return {"y_hat": torch.cat(y_hats)}

    def update(self, force: bool = False, update_quantiles: bool = False) -> bool:
        """Build the coding tables, and the integers of a scale network; call it after training.

        Args:
            force: build them again if they exist.
            update_quantiles: when tables are built, compute the quantiles of z's prior first, which lag behind it in
                training; the medians stay with a scale network, which reads z's symbols.

        Returns:
            Whether anything was built.

        Raises:
            ArgumentError: a sum of the scale network could reach 2^53, or weights are offloaded or sharded.
            NonFiniteError: a weight is NaN or infinite.
        """
        if force:
            self.y_tables.store(self.distribution.tables())
        network = self.scale_network
        integers = network is not None and network.update(self.gains, force)
        return self.entropy_bottleneck.update(force, update_quantiles, keep_medians=network is not None) or integers

    def aux_loss(self) -> Tensor:
        """Loss that fits the quantiles of z's prior, in logits; for the auxiliary optimiser."""
        return self.entropy_bottleneck.loss()

    def coding_fingerprint(self) -> bytes:
        """A 4-byte hash of coder and tables.

        Raises:
            NotUpdatedError: `update()` was not called.
        """
        tables = self.y_tables.tables().fingerprint() + self.entropy_bottleneck.tables().fingerprint()
        return hashlib.sha256(self.coder.name.encode() + tables).digest()[:4]

    def decoder_state(self) -> dict[str, Tensor]:
        """All numbers but the coding tables that decoding depends on, by name."""
        left_out = ["h_a.", "entropy_bottleneck.", "y_tables.", "scale_bound."]
        if self.exact:  # of which the integers count
            left_out += [f"scale_network.{name}" for name, _ in self.scale_network.named_parameters()]  # type: ignore[union-attr]
        state = {name: value for name, value in self.state_dict().items() if not name.startswith(tuple(left_out))}
        return {**state, "medians": self.entropy_bottleneck.medians()}

    def _estimate(self, y: Tensor, gain: Gain, rounding: Rounding | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """y_hat and the likelihoods of y and z, of one image, or in training of a batch."""
        side, symbols, z_likelihoods = self.estimate_side(y, gain.z, rounding)
        order = self.context.order
        slices = order.split(y)
        residuals: dict[int, Tensor] = {}
        scales: dict[int, Tensor] = {}

        def quantised(step: Step) -> Tensor:
            k = step.slice_index
            residual = step.residual_of(slices[k])
            if self.training:
                q = straight_through(residual)
            else:
                q = residual = torch.round(residual) if rounding is None else rounding(residual)
            for kept, x in ((residuals, residual), (scales, step.scale)):
                kept[k] = torch.where(step.positions, x, kept[k]) if k in kept else x
            return q

        y_hat = drive(coding_steps(self.context, side, gain.y), quantised)
        # of the whole latent at once: many small calls cost more than what they compute
        if self.scale_network is not None:
            scales = known_scales(self.scale_network, symbols, gain, residuals, whole=self.training)
        residual, scale = (order.join([kept[k] for k in range(len(slices))]) for kept in (residuals, scales))
        scale = self.scale_bound(scale)
        if self.training:
            likelihoods = self.distribution.likelihood(residual + torch.rand_like(residual) - 0.5, scale)
        else:
            likelihoods = self.distribution.likelihood(residual, self.distribution.grid.nearest(scale))
        return y_hat, likelihoods.to(torch.promote_types(y.dtype, torch.float32)), z_likelihoods

    def _encode(self, y: Tensor, gain: Gain, zeroing: float) -> tuple[Sections, Tensor, tuple[int, int]]:
        """The sections of one image, y_hat, and the size of z."""
        coded = self.encode_side(y, gain.z, self.coder)
        writer = LatentWriter(self.coder, self.y_tables.tables(), self.distribution.grid, self.guard_band)
        walk = ScaleWalk(self.scale_network, coded.symbols, gain, y.shape[2:])

        def quantised(step: Step) -> Tensor:
            residual = step.residual(y)
            if zeroing:
                q = rounded(residual, self.scale_bound(walk.scale(step)), self.distribution, zeroing)
            else:
                q = torch.round(residual)
            writer.write(step, q, walk.now)
            walk.advance(step, q)
            return q

        y_hat = drive(walked(self.context, coded.side, gain.y), quantised)
        stream, checksums, guard = writer.finish(coded.checksum)
        return Sections(stream, coded.stream, checksums, guard), y_hat, coded.size

    def _decode(self, sections: Sections, size: torch.Size, hyper_size: torch.Size, gain: Gain) -> Tensor:
        """y_hat of one image."""
        guard = Guard.from_bytes(sections.guard, self.M * size.numel())
        checksums = Checksums.from_bytes(sections.checksums, sections.guard, self.context.order.num_steps)
        coded = self.decode_side(sections.z, hyper_size, size, gain.z, self.coder)
        if checksums is not None and coded.checksum != checksums.z:
            raise CorruptStreamError(
                "z decodes to other symbols than were encoded: its stream, the checksums or the guard is damaged"
            )
        tables, grid = self.y_tables.tables(), self.distribution.grid
        reader = LatentReader(self.coder, tables, grid, sections.y, guard, checksums)
        if self.scale_network is not None:
            reader.read_all(scale_steps(self.scale_network, coded.symbols, gain, size, frozen=True))
        y_hat = drive(walked(self.context, coded.side, gain.y), reader.read)
        reader.finish()
        return y_hat

    def _kinds(self) -> int:
        """Kinds of strings: no guards where none are needed."""
        return len(Sections._fields) - self.exact

    def _gain(self, quality: Quality | None, batch: int) -> Gain:
        if quality is None:
            return Gain()
        if self.gains is None:
            raise ArgumentError(
                f"MambaICEntropyModel has one rate, got quality={quality!r}: make it with qualities=, or leave it out"
            )
        gain: Gain = self.gains(quality)
        if len(gain.y) not in (1, batch):  # type: ignore[arg-type]
            raise ArgumentError(f"quality must be one number or {batch}, one for each image, got {quality!r}")
        return gain

    def _one_gain(self, quality: Any, what: str) -> Gain:
        """The gain of a coded latent: "shape" tells one quality for all images."""
        if isinstance(quality, (list, tuple)) or getattr(quality, "ndim", False):
            raise ArgumentError(f"{what} takes one quality for all images, got {quality!r}; code the images one by one")
        return self._gain(quality, 1)

    def _wide(self, y: Tensor) -> Tensor:
        """y in the weights' precision: autocast may have made it in less."""
        return y.to(self.entropy_bottleneck.quantiles.dtype)


def _joined(images: Sequence[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Any]:
    y_hat, likelihoods, z_likelihoods = (torch.cat(parts) for parts in zip(*images, strict=True))
    return {"y_hat": y_hat, "likelihoods": {"y": likelihoods, "z": z_likelihoods}}
