"""What a context model is: a coding order, and a network that predicts each step from the steps before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssmctx.context.order import CodingOrder
from ssmctx.errors import ShapeError

__all__ = ["MOST_LOG_SCALE", "ContextModel", "keep_at", "scaled"]

MOST_LOG_SCALE = 8.0


class ContextModel(nn.Module):
    """Base class of context models; derive from it and write `forward`.

    Args:
        order: the coding order that the model follows.

    Attributes:
        order: the same.
        means_only: the scales that it predicts are 1, so that the entropy model needs a scale network; False unless a
            model says so.

    Examples:
        >>> import torch
        >>> from ssmctx import CodingOrder, ContextModel
        >>> class Standard(ContextModel):
        ...     def forward(self, step, y_hat, side, state=None):
        ...         mean = torch.zeros_like(y_hat[:, self.order.channels(step)])
        ...         return mean, torch.ones_like(mean)
        >>> mean, scale = Standard(CodingOrder([2, 1]))(0, torch.zeros(1, 3, 4, 5), torch.zeros(1, 6, 4, 5))
        >>> mean.shape
        torch.Size([1, 2, 4, 5])
    """

    means_only = False

    def __init__(self, order: CodingOrder) -> None:
        super().__init__()
        self.order = order

    def begin(self, side: Tensor) -> Any:
        """What the steps of one latent share: an object of the model's own, or None, the default.

        The coding loop calls it once per latent and passes the state to each step in coding order; steps may change it.

        Args:
            side: side information h_s(z_hat), (batch, 2M, H, W).
        """
        return None

    def forward(self, step: int, y_hat: Tensor, side: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
        """Predict the distribution of the elements that one step codes.

        Must read of `y_hat` only what steps before this one coded; the coding loop passes nothing else.

        Args:
            step: the coding step, 0 to `order.num_steps - 1`.
            y_hat: the latent as far as it is coded, (batch, M, H, W).
            side: side information h_s(z_hat), (batch, 2M, H, W).
            state: what `begin` gave, after all earlier steps; None to compute this step alone.

        Returns:
            mean and scale, each (batch, channels of the step's slice, H, W), channels as `order.channels(step)` has
            them. Only the positions that the step codes count, elsewhere they may hold anything. The scale is the
            standard deviation in quantisation steps; any real number, the entropy model bounds it below.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(step, y_hat, side, state=None)")

    def scales(self, side: Tensor, state: Any = None) -> Tensor | None:
        """The scales of the whole latent, where they depend on side information alone; else None, the default.

        The coding loop asks once, after `begin`. Where it gets scales, y is coded in one call, a decoder has all
        symbols before the first step, and of what `forward` gives only the means count; `forward` must still give the
        same scales, for calls of a single step.

        Args:
            side: side information h_s(z_hat), (batch, 2M, H, W).
            state: what `begin` gave, before the first step; None to compute what is needed.

        Returns:
            Standard deviations in quantisation steps, (batch, M, H, W), or None.
        """
        return None

    def refine(self, step: int, y_hat: Tensor, side: Tensor, state: Any = None) -> Tensor | None:
        """Correct a slice once all of it is coded; later steps and the synthesis see the corrected one.

        The coding loop calls it after the last step of each slice, in the encoder and in the decoder alike. Symbols
        and rates stay as they are.

        Args:
            step: the last coding step of the slice.
            y_hat: the latent as far as it is coded, (batch, M, H, W).
            side: side information h_s(z_hat), (batch, 2M, H, W).
            state: as `forward` takes it.

        Returns:
            The corrected slice (batch, channels of the slice, H, W), or None, the default, to leave it.
        """
        return None

    def coded_anchors(self, step: int, y_hat: Tensor) -> Tensor:
        """What earlier steps coded of the step's own slice, (batch, m, H, W); zero elsewhere, all zero in a first pass.

        Selected, not multiplied, so that even a NaN in what is not coded yet does not enter.
        """
        current = self.order.select(step, y_hat)
        if self.order.is_anchor(step):
            return torch.zeros_like(current)
        return keep_at(self.order.coded_positions(step, (y_hat.shape[2], y_hat.shape[3]), y_hat.device), current)

    def coded_slices(self, step: int, y_hat: Tensor) -> Tensor:
        """What earlier steps coded of the slices before the step's own, (batch, their channels, H, W); zero elsewhere.

        They are whole where all passes of a slice come before the next slice.
        """
        earlier = self.order.select_earlier(step, y_hat)
        if not self.order.passes_outer or self.order.ends_slice(step):
            return earlier
        size = (y_hat.shape[2], y_hat.shape[3])
        coded = self.order.coded_positions(step, size, y_hat.device) | self.order.positions(step, size, y_hat.device)
        return keep_at(coded, earlier)

    def check_inputs(self, y_hat: Tensor, side: Tensor) -> None:
        """Raise ShapeError unless y_hat is (batch, M, H, W) and side (batch, 2M, H, W) of the same image."""
        M = self.order.num_channels
        name = type(self).__name__
        if y_hat.dim() != 4 or y_hat.shape[1] != M or y_hat.numel() == 0:
            raise ShapeError(
                f"{name} expects y_hat of shape (batch, {M}, H, W) with every size at least 1, got {tuple(y_hat.shape)}"
            )
        expected = (y_hat.shape[0], 2 * M, *y_hat.shape[2:])
        if tuple(side.shape) != expected:
            raise ShapeError(
                f"{name} expects side of shape {expected} for y_hat {tuple(y_hat.shape)}, got {tuple(side.shape)}"
            )


@torch.no_grad()
def scaled(layer: nn.Module, factor: float) -> nn.Module:
    """The layer, its first weights and biases times a factor."""
    for parameter in layer.parameters():
        parameter.mul_(factor)
    return layer


def keep_at(positions: Tensor, x: Tensor) -> Tensor:
    """x (batch, channels, H, W) at some positions, a boolean (H, W), and zero elsewhere, whatever x holds there."""
    return x.masked_fill(~positions, 0)  # where(..., 0) would bring the zero to a GPU each time
