"""The factorised prior: a learned distribution for each channel of z, and its tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmctx.distributions.tables import CodingTables
from ssmctx.entropy.factorized_prior.tables import ExactPrior, factorized_tables, settled_quantiles
from ssmctx.entropy.lower_bound import LowerBound
from ssmctx.entropy.stored_tables import HeldTables
from ssmctx.errors import ArgumentError, NotUpdatedError, ShapeError
from ssmctx.layers.checks import check_positive
from ssmctx.lookalike import Lookalike

__all__ = ["FactorizedPrior", "likelihoods", "logits_cumulative"]

_LEAST = 1e-9


class FactorizedPrior(Lookalike, HeldTables, of="compressai.entropy_models:EntropyBottleneck"):
    r"""A distribution for each channel, the same at all positions; its cumulative function is a small network.

    $$ p(z) = c(z + \tfrac12) - c(z - \tfrac12), \qquad c = \sigma \circ f_K \circ \dots \circ f_1, \qquad
    f_k(x) = g_k(\mathrm{softplus}(H_k) x + b_k), \quad g_k(x) = x + \tanh(a_k) \odot \tanh(x) $$

    Likelihoods are computed in float32 or wider, whatever z and autocast are. Parameters, state dict and results are
    those of CompressAI's `EntropyBottleneck`, which CompressAI takes it for; CompressAI itself is not needed. Coding
    tables are integers, the same on every machine, and no buffers: see `HeldTables`.

    Args:
        channels: channels of z.
        tail_mass: probability outside the outer quantiles, which the coding tables leave to the escape.
        init_scale: the range of values that the initial distribution covers.
        filters: widths of the network's hidden layers.

    Raises:
        ArgumentError: a size is below 1, init_scale is not above 0, or tail_mass not within 0 ... 1.

    Source:
        Balle et al. 2018, "Variational image compression with a scale hyperprior", appendix 6.1; CompressAI 1.2.8.

    Examples:
        >>> import torch
        >>> from ssmctx.entropy.factorized_prior import FactorizedPrior
        >>> prior = FactorizedPrior(4).eval()
        >>> z_hat, p = prior(torch.randn(2, 4, 3, 5))
        >>> z_hat.shape, p.shape, prior.update(), prior.tables().lengths.tolist()
        (torch.Size([2, 4, 3, 5]), torch.Size([2, 4, 3, 5]), True, [23, 23, 23, 23])
    """

    _held = ("_offset", "_quantized_cdf", "_cdf_length")
    _offset: Tensor
    _quantized_cdf: Tensor
    _cdf_length: Tensor
    target: Tensor

    def __init__(
        self,
        channels: int,
        tail_mass: float = 1e-9,
        init_scale: float = 10.0,
        filters: Sequence[int] = (3, 3, 3, 3),
    ) -> None:
        check_positive("FactorizedPrior", channels=channels)
        for width in filters:
            check_positive("FactorizedPrior", filters=width)
        if not 0 < init_scale < math.inf:
            raise ArgumentError(f"FactorizedPrior: init_scale must be a number above 0, got {init_scale}")
        if not 0 < tail_mass < 1:
            raise ArgumentError(f"FactorizedPrior: tail_mass must lie between 0 and 1, got {tail_mass}")
        super().__init__()
        self.channels, self.filters = channels, tuple(filters)
        widths = (1, *self.filters, 1)
        scale = init_scale ** (1 / (len(self.filters) + 1))
        with torch.inference_mode(False):  # a model made inside inference_mode must train outside, too
            tail = math.log(2 / tail_mass - 1)
            self.register_buffer("target", torch.tensor([-tail, 0.0, tail], dtype=torch.float32))
            self.likelihood_lower_bound = LowerBound(_LEAST)
            self.matrices, self.biases, self.factors = _Weights(), _Weights(), _Weights()
            for inputs, outputs in pairwise(widths):
                init = math.log(math.expm1(1 / scale / outputs))
                self.matrices.append(nn.Parameter(torch.full((channels, outputs, inputs), init)))
                self.biases.append(nn.Parameter(torch.empty(channels, outputs, 1).uniform_(-0.5, 0.5)))
                if len(self.factors) < len(self.filters):
                    self.factors.append(nn.Parameter(torch.zeros(channels, outputs, 1)))
            self.quantiles = nn.Parameter(torch.tensor([-init_scale, 0.0, init_scale]).repeat(channels, 1, 1))

    def forward(
        self, z: Tensor | None = None, training: bool | None = None, extra: str | None = None
    ) -> tuple[Tensor, ...]:
        """Quantise z and estimate its rate.

        The other methods call the module too, since offloading and sharding hand out weights only during a call.

        Args:
            z: values (batch, channels, *spatial); None for an empty batch.
            training: add uniform noise instead of rounding about the medians; default `self.training`.
            extra: "likelihood", "medians" or "loss": what the method of this name gives, as a third result.

        Returns:
            z_hat and its likelihoods, both of z's shape, in float32 or wider; and the extra, where one is asked for.

        Raises:
            ShapeError: z is no (batch, channels, ...).
        """
        if z is None and extra == "medians":  # for which nothing else need be computed
            none = self.quantiles.new_empty(0, self.channels)
            none = none.to(torch.promote_types(none.dtype, torch.float32))
            return none, none, self._medians()
        z = self.quantiles.new_empty(0, self.channels) if z is None else z
        values = self._in_rows(z)
        layers = self._layers(values.dtype)
        if self.training if training is None else training:
            rounded = values + (torch.rand_like(values) - 0.5)
        else:
            medians = self.quantiles[:, :, 1:2].to(values.dtype)
            rounded = torch.round(values - medians) + medians
        coded = _from_rows(rounded, z), _from_rows(self._likelihoods(rounded, layers), z)
        if extra is None:
            return coded
        extras: dict[str, Callable[[], Tensor]] = {
            "likelihood": lambda: _from_rows(self._likelihoods(values, layers), z),
            "medians": self._medians,
            "loss": lambda: self._loss(layers),
        }
        return *coded, extras[extra]()

    def likelihood(self, z: Tensor) -> Tensor:
        """Likelihoods of values as they are.

        Args:
            z: values (batch, channels, *spatial).

        Returns:
            Probabilities of the unit intervals around them, at least 1e-9, of z's shape, in float32 or wider.

        Raises:
            ShapeError: z is no (batch, channels, ...).
        """
        return self._extra("likelihood", z)

    def medians(self) -> Tensor:
        """Medians (1, channels, 1, 1), in units of z, about which z is rounded; they learn through `loss` only."""
        return self._extra("medians")

    def loss(self) -> Tensor:
        """The auxiliary loss: how far the quantiles are from where they belong, in logits, summed over all.

        Only the quantiles learn from it.
        """
        return self._extra("loss")

    @torch.no_grad()
    def update(self, force: bool = False, update_quantiles: bool = False, keep_medians: bool = False) -> bool:
        """Build the coding tables; call it after training.

        Args:
            force: also where there are tables.
            update_quantiles: when tables are built, compute the quantiles first, by search; the auxiliary loss only
                approaches them.
            keep_medians: with update_quantiles, leave the medians as they were in training. z is rounded about them,
                so new medians would change the symbols that a scale network reads.

        Returns:
            Whether anything was built.

        Raises:
            NonFiniteError: weights or quantiles hold NaN or an infinity.
            ArgumentError: quantiles so far apart that symbols would need more than 16 bits, or weights that are
                offloaded or sharded.
        """
        if self._offset.numel() and not force:
            return False
        if any(p.is_meta or hasattr(p, "device_mesh") for p in self.parameters()):
            raise ArgumentError(
                "FactorizedPrior: update() needs all weights, and some are offloaded or sharded: call it before, or "
                "load the whole state dict into a plain model"
            )
        prior = ExactPrior(*([p.cpu().numpy() for p in part(torch.float64)] for part in self._parts()))
        if update_quantiles:
            settled = torch.from_numpy(settled_quantiles(prior, self.target.tolist()))
            if keep_medians:
                settled[:, 1] = self.quantiles[:, 0, 1]
            self.quantiles.copy_(settled[:, None])
        quantiles = self.quantiles[:, 0].to(torch.promote_types(self.quantiles.dtype, torch.float32))
        tables = factorized_tables(prior, quantiles.cpu().numpy())
        arrays = (tables.offsets, tables.cdfs, tables.lengths)
        self._hold({name: torch.from_numpy(array.copy()) for name, array in zip(self._held, arrays, strict=True)})
        return True

    def tables(self) -> CodingTables:
        """The coding tables, checked and prepared; row c codes channel c.

        Raises:
            NotUpdatedError: `update()` was not called.
            ArgumentError: what was loaded is no coding table.
        """
        if not self._quantized_cdf.numel():
            raise NotUpdatedError("FactorizedPrior has no coding tables: call update() after training, before coding")
        return self._prepared.of(self._make, self._quantized_cdf, self._cdf_length, self._offset)

    def extra_repr(self) -> str:
        return f"{self.channels}, filters={self.filters}"

    def _make(self) -> CodingTables:
        return CodingTables(*(x.int().numpy() for x in (self._quantized_cdf, self._cdf_length, self._offset)))

    def _parts(self) -> tuple[_Weights, _Weights, _Weights]:
        return self.matrices, self.biases, self.factors

    def _layers(self, dtype: torch.dtype) -> list[list[Tensor]]:
        """Matrix, bias and, except in the last one, factor of each layer."""
        parts = [part(dtype) for part in self._parts()]
        return [[part[k] for part in parts if k < len(part)] for k in range(len(self.filters) + 1)]

    def _likelihoods(self, values: Tensor, layers: Sequence[Sequence[Tensor]]) -> Tensor:
        bounded: Tensor = self.likelihood_lower_bound(likelihoods(values, layers))
        return bounded

    def _loss(self, layers: Sequence[Sequence[Tensor]]) -> Tensor:
        fixed = [[tensor.detach() for tensor in layer] for layer in layers]
        return (logits_cumulative(self.quantiles.to(layers[0][0].dtype), fixed) - self.target).abs().sum()

    def _medians(self) -> Tensor:
        return self.quantiles[:, 0, 1].detach().clone()[None, :, None, None]

    def _extra(self, name: str, z: Tensor | None = None) -> Tensor:
        extra: Tensor = self(z, False, name)[2]
        return extra

    def _in_rows(self, z: Tensor) -> Tensor:
        """z (batch, channels, *spatial) as (channels, 1, n), in float32 or wider."""
        if z.dim() < 2 or z.shape[1] != self.channels:
            raise ShapeError(f"FactorizedPrior expects z (batch, {self.channels}, ...), got {tuple(z.shape)}")
        wide = torch.promote_types(torch.promote_types(z.dtype, self.quantiles.dtype), torch.float32)
        return z.to(wide).transpose(0, 1).contiguous().view(self.channels, 1, -1)


class _Weights(nn.ParameterList):
    """Weights of all layers, returned by a call, so that hooks and wrappers of the list take effect."""

    __call__ = nn.Module.__call__  # a ParameterList's refuses

    def forward(self, dtype: torch.dtype) -> list[Tensor]:
        return [p.to(dtype, copy=True) for p in self]  # copies: sharding takes the weights back after the call


def _from_rows(rows: Tensor, z: Tensor) -> Tensor:
    return rows.view(z.transpose(0, 1).shape).transpose(0, 1).contiguous()


def logits_cumulative(x: Tensor, layers: Sequence[Sequence[Tensor]]) -> Tensor:
    """Logits of the probability of values below x.

    Args:
        x: values (channels, 1, n).
        layers: matrix (channels, outputs, inputs), bias (channels, outputs, 1) and, except in the last layer, factor
            (channels, outputs, 1) of each layer.

    Returns:
        Logits (channels, 1, n).

    Source:
        Balle et al. 2018, appendix 6.1, equations 20 to 25.
    """
    for matrix, bias, *factor in layers:
        # as products and a sum: autocast and TF32 would narrow a matrix product
        x = (F.softplus(matrix).unsqueeze(-1) * x.unsqueeze(1)).sum(2) + bias
        for a in factor:
            x = x + torch.tanh(a) * torch.tanh(x)
    return x


def likelihoods(x: Tensor, layers: Sequence[Sequence[Tensor]]) -> Tensor:
    """Probabilities of the unit intervals around x, for x and layers as `logits_cumulative` takes them."""
    lower, upper = torch.sigmoid(logits_cumulative(torch.cat([x - 0.5, x + 0.5], -1), layers)).chunk(2, -1)
    return upper - lower
