"""The two optimisers of a codec: of its weights, and of the quantiles of its factorised prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

OPTIMISERS = ("adam", "muon")
_LEAST = 16  # rows and columns of a matrix that is worth making orthogonal
_LIKE_ADAM = 0.2  # root mean square of Adam's steps in units of its learning rate
_QUINTIC = (3.4445, -4.7750, 2.0315)  # brings singular values in (0, 1] to 0.7 ... 1.2 in five rounds
_ROUNDS = 5


def optimisers(model: nn.Module, name: str, lr: float, aux_lr: float) -> tuple[torch.optim.Optimizer, torch.optim.Adam]:
    """An optimiser of `OPTIMISERS` for all weights but the quantiles, and Adam for these, which `aux_loss` trains."""
    named = dict(sorted(model.named_parameters()))
    quantiles = [name for name in named if name.endswith(".quantiles")]
    weights = {name: weight for name, weight in named.items() if name not in quantiles}
    aux = torch.optim.Adam([named[name] for name in quantiles], lr=aux_lr, fused=True)
    if name == "adam":
        return torch.optim.Adam(weights.values(), lr=lr, fused=True), aux
    matrices = set(_matrices(model)) & set(weights)
    return (
        Muon(
            [weight for name, weight in weights.items() if name in matrices],
            [weight for name, weight in weights.items() if name not in matrices],
            lr,
        ),
        aux,
    )


class Muon(torch.optim.Optimizer):
    r"""Momentum that is made orthogonal, for the weights of dense layers; Adam for all others.

    $$ M \leftarrow \beta M + (1 - \beta) G, \quad
    W \leftarrow W - 0.2\,\eta \sqrt{\max(r, c)}\, \mathrm{orth}((1 - \beta) G + \beta M) $$

    for a weight as a matrix of r rows and c columns, a convolution's taps among the columns. The factor gives steps the
    size of Adam's, so that both share a learning rate.

    Args:
        matrices: weights of dense layers.
        others: all other weights.
        lr: learning rate.
        momentum: beta.
        betas: of Adam.

    Source:
        Jordan et al., Muon, 2024 (the Newton-Schulz polynomial); the factor of Liu et al., Muon is scalable for LLM
        training, 2025.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "orthogonal": True},
            {"params": list(others), "orthogonal": False},
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not group["orthogonal"]:
                for weight in weights:
                    self._adam(weight, weight.grad, self.state[weight], group)
                continue
            alike: dict[torch.Size, list[Tensor]] = {}
            for weight in weights:
                alike.setdefault(weight.shape, []).append(weight)
            for same in alike.values():
                self._orthogonal(same, group)

    def _orthogonal(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Move weights of one shape; together, since most are small."""
        ahead = []
        for weight in weights:
            momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            momentum.lerp_(weight.grad, 1 - group["momentum"])
            ahead.append(weight.grad.lerp(momentum, group["momentum"]).flatten(1))
        length = -_LIKE_ADAM * group["lr"] * max(ahead[0].shape) ** 0.5
        for weight, update in zip(weights, orthogonal(torch.stack(ahead)), strict=True):
            weight.add_(update.reshape(weight.shape), alpha=length)

    def _adam(self, weight: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        if not state:
            state.update(step=torch.zeros(()), mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
        state["step"] += 1
        step = state["step"].item()
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        size = (state["square"] / (1 - second**step)).sqrt_().add_(1e-8)
        weight.addcdiv_(state["mean"], size, value=-group["lr"] / (1 - first**step))


def orthogonal(x: Tensor) -> Tensor:
    """Matrices with x's singular vectors and singular values near 1 (0.7 to 1.2), in bfloat16.

    Args:
        x: (..., rows, columns).
    """
    wide = x.shape[-2] <= x.shape[-1]
    y = (x if wide else x.mT).bfloat16()
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        gram = y @ y.mT
        y = a * y + (b * gram + c * (gram @ gram)) @ y
    return y if wide else y.mT


def _matrices(model: nn.Module) -> Iterable[str]:
    """Names of the weights of dense layers, but those of linear paths, whose rows have sizes that mean something."""
    for name, layer in model.named_modules():
        dense = isinstance(layer, nn.Linear) or (
            isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer.groups == 1
        )
        if dense and not name.endswith(".linear") and min(layer.weight.flatten(1).shape) >= _LEAST:
            yield f"{name}.weight"
