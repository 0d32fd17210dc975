"""A block for images: what goes in comes out in its shape, at any size, and the output depends on that image only."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssmctx.testing.broken import LawBroken, attempt, difference
from ssmctx.testing.cases import Latent
from ssmctx.testing.contract import evaluating
from ssmctx.testing.laws.round_trip import SIZES
from ssmctx.testing.laws.scan import poisoned_memory

__all__ = ["assert_block"]

_LAW = "block"
_WHOLE = 48  # a multiple of windows of 2, 3, 4, 6, 8, 12, 16 and 24
_BATCH = "statistics over the batch"


def assert_block(
    block: nn.Module, channels: int, sizes: Sequence[tuple[int, int]] = SIZES, *, tolerance: float = 1e-5
) -> None:
    """A block keeps the shape of an image of any size, and its output is a function of that image alone.

    Per size: the shape stays; values are finite; the input is not changed; fresh memory full of NaN, a second call,
    other images in the batch, deepcopy and pickle change nothing. Gradients reach the input and every parameter.
    If a constant image of 48x48, which every usual window divides, gives a constant output (as with attention, and not
    with a padded convolution), constant images of every size must: padding must not affect the result.

    Args:
        block: (batch, channels, H, W) to the same.
        channels: of its input.
        sizes: H and W.
        tolerance: for other images in the batch and for constancy, whose numbers may round otherwise.

    Raises:
        LawBroken: one of these fails; the message names it and the size.

    Examples:
        >>> from ssmctx import WindowLocalAttention
        >>> from ssmctx.testing import assert_block
        >>> assert_block(WindowLocalAttention(8, window_size=4), 8)
    """
    for height, width in sizes:
        _assert_at(block, Latent(channels, height, width, batch=2, scale=1.0), tolerance)
    with evaluating(block):
        _assert_padding(block, channels, sizes, tolerance)
    _assert_gradients(block, Latent(channels, *max(sizes), batch=2, scale=1.0))


def _assert_at(block: nn.Module, case: Latent, tolerance: float) -> None:
    x, where = case.tensor(), f"at {case.height}x{case.width}"

    def run(model: nn.Module = block, given: Tensor = x) -> Tensor:
        out: Tensor = attempt(_LAW, f"{where} forward", model, given)
        return out

    with evaluating(block):
        given = x.clone()
        out = run()
        if out.shape != x.shape:
            raise LawBroken(
                _LAW, f"{where} the shape {tuple(x.shape)} becomes {tuple(out.shape)}", "padding that is not cropped"
            )
        if not bool(out.isfinite().all()):
            raise LawBroken(_LAW, f"{where} the output is not finite", "a softmax over padding alone, or memory unset")
        if found := difference(x, given):
            raise LawBroken(_LAW, f"{where} the input is changed: {found}", "an in-place operation")
        with poisoned_memory():
            poisoned = run()
        pickled = attempt(_LAW, "pickling", lambda: pickle.loads(pickle.dumps(block)))
        for what, other, allowed, cause in (
            ("in memory that was NaN", poisoned, 0.0, "memory is read before it is written: pad with zeros"),
            ("when called again", run(), 0.0, "noise or dropout in evaluation mode, or a state that is kept"),
            ("from a deep copy", run(copy.deepcopy(block)), 0.0, "state outside parameters and buffers"),
            ("from a pickle", run(pickled), 0.0, "state outside parameters and buffers"),
            ("beside another image", run(given=torch.cat([x[:1], 1 - 3 * x[1:]]))[:1], tolerance, _BATCH),
            ("alone", run(given=x[:1]), tolerance, _BATCH),
        ):
            if found := difference(other, out[: len(other)], allowed):
                raise LawBroken(_LAW, f"{where} the output differs {what}: {found}", cause)


def _assert_padding(block: nn.Module, channels: int, sizes: Sequence[tuple[int, int]], tolerance: float) -> None:
    def constant(height: int, width: int) -> str | None:
        out = block(Latent(channels, 1, 1, scale=1.0).tensor().expand(-1, -1, height, width).contiguous())
        return difference(out, out[..., :1, :1].expand_as(out), tolerance)

    if constant(_WHOLE, _WHOLE):
        return
    for height, width in sizes:
        if found := constant(height, width):
            raise LawBroken(
                _LAW,
                f"at {height}x{width} a constant image does not stay constant, at {_WHOLE}x{_WHOLE} it does: {found}",
                "the padding of a window takes part in the attention: mask it out of the softmax",
            )


def _assert_gradients(block: nn.Module, case: Latent) -> None:
    x = case.tensor().requires_grad_()
    parameters = dict(block.named_parameters())
    out = block(x)
    gradients = torch.autograd.grad(out.square().sum(), [x, *parameters.values()], allow_unused=True)
    for name, gradient in zip(["the input", *parameters], gradients, strict=True):
        if gradient is None or not bool(gradient.isfinite().all()):
            what = "no gradient" if gradient is None else "a gradient that is not finite"
            raise LawBroken(
                _LAW, f"{what} reaches {name}", "a detach, a parameter that is not used, or a division by 0"
            )
