"""Causality: what a step predicts depends only on what earlier steps coded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssmctx.context.base import ContextModel
from ssmctx.errors import ArgumentError
from ssmctx.testing.broken import LawBroken, attempt, difference, unequal
from ssmctx.testing.contract import evaluating

__all__ = ["assert_causal", "assert_causal_steps", "assert_partition"]

_LAW = "causal"
_CAUSES = {
    "own": "the pass reads the elements that it is about to code: select what is coded, or use a masked convolution",
    "later": "a slice of channels or a mask that takes one step too many",
    "nan": "the mask multiplies by 0, and 0 * NaN is NaN: select with torch.where, or by indexing",
    "ahead": "`scales` and `forward` compute the scales in two ways, or `forward` adds what was decoded to them",
    "state": "the state keeps something that belongs to another step, or that was made from uncoded elements",
}


def assert_causal(context: Any, y_hat: Tensor, side: Tensor, *, steps: Sequence[int] | None = None) -> None:
    """A context model's mean and scale of each step stay bit-identical whatever is not coded yet.

    Everything that no earlier step coded is replaced, by noise and then by NaN; the mean and scale of the elements
    that the step codes must not move by one bit. Nor may what `refine` makes of a slice, by what later slices hold; nor
    may any of these, when the steps share the state that `begin` gives. Where a context gives all scales at once
    (`ContextModel.scales`), they are those that `forward` gives.

    A codec that gives no access to its context, one of another library's say, is judged by `assert_round_trip` and
    `assert_real_bits`: its decoder cannot read what is not decoded yet, so a leak shows as a decoder that disagrees
    with the encoder, or as an estimate below the real bits. For anything that predicts step by step there is
    `assert_causal_steps`.

    Args:
        context: a `ContextModel`, or anything with its `order` and `forward(step, y_hat, side)`.
        y_hat: a latent (batch, M, H, W).
        side: side information (batch, 2M, H, W).
        steps: which steps; all by default.

    Raises:
        LawBroken: a step's prediction moves; the message names the step, the element and whose symbols move it.

    Source:
        Law 1 of the design; autoregressive entropy models, Minnen et al., 2018.

    Examples:
        >>> import torch
        >>> from ssmctx import ChannelSpatialContext
        >>> from ssmctx.testing import assert_causal
        >>> context = ChannelSpatialContext(M=4, num_slices=2).eval()
        >>> assert_causal(context, torch.randn(1, 4, 5, 3), torch.randn(1, 8, 5, 3))
    """
    order, size = context.order, (y_hat.shape[2], y_hat.shape[3])
    masks = [order.mask(step, size).to(y_hat.device) for step in range(order.num_steps)]
    with evaluating(context):
        assert_causal_steps(lambda step, latent: context(step, latent, side), masks, y_hat, steps=steps)
        for step in range(order.num_steps) if steps is None else steps:
            if _refines(context, step):
                _assert_unmoved(
                    _Question("refine", lambda latent, step=step: context.refine(step, latent, side), step),  # type: ignore[misc]
                    _coded_before(masks, step + 1),
                    _whole_slice(order, step, y_hat),
                    masks,
                    y_hat,
                )
        if steps is None:
            _assert_state(context, masks, y_hat, side)
            _assert_scales(context, masks, y_hat, side)


def assert_causal_steps(
    predict: Callable[[int, Tensor], Tensor | Sequence[Tensor]],
    masks: Sequence[Tensor],
    y_hat: Tensor,
    *,
    steps: Sequence[int] | None = None,
) -> None:
    """`assert_causal` for any function that predicts step by step, of any library.

    Args:
        predict: predict(step, y_hat) gives the step's distribution, one tensor or several. A tensor in y_hat's shape,
            or with only the channels that the step codes in, is compared where the step codes; any other, everywhere.
        masks: per step, boolean (M, H, W): the elements that it codes.
        y_hat: a latent (batch, M, H, W).
        steps: which steps; all by default.

    Raises:
        LawBroken: a step's prediction moves with what it must not see.

    Examples:
        >>> import torch
        >>> from ssmctx.testing import assert_causal_steps
        >>> masks = [torch.tensor([True, False]).view(2, 1, 1), torch.tensor([False, True]).view(2, 1, 1)]
        >>> nothing = torch.zeros(1, 1, 1, 1)
        >>> assert_causal_steps(lambda step, y: y[:, :1] if step else nothing, masks, torch.randn(1, 2, 1, 1))
    """
    with torch.no_grad():
        for step in range(len(masks)) if steps is None else steps:
            question = _Question("", lambda latent, step=step: predict(step, latent), step)  # type: ignore[misc]
            _assert_unmoved(question, _coded_before(masks, step), masks[step], masks, y_hat)


def assert_partition(order: Any, size: tuple[int, int]) -> None:
    """The steps of a coding order code every element exactly once.

    Args:
        order: a `CodingOrder`, or anything with its `num_steps` and `mask(step, size)`.
        size: of the latent.

    Raises:
        LawBroken: an element is coded twice or never.

    Examples:
        >>> from ssmctx import CodingOrder
        >>> from ssmctx.testing import assert_partition
        >>> assert_partition(CodingOrder([2, 1]), (3, 4))
    """
    times = sum(order.mask(step, size).int() for step in range(order.num_steps))
    if not isinstance(times, Tensor):
        raise LawBroken("order", "the order has no steps")
    wrong = (times != 1).nonzero()
    if len(wrong):
        element = wrong[0].tolist()
        count = times[tuple(element)].item()
        raise LawBroken(
            "order",
            f"element (channel, row, column) {element} of a {size[0]}x{size[1]} latent is coded {count} times; "
            f"{len(wrong)} of {times.numel()} elements are not coded exactly once",
            "slices that overlap or leave a gap, or a parity that both passes take",
        )


class _Question(NamedTuple):
    """What is asked of y_hat at a step.

    Attributes:
        name: of what answers; empty for the prediction itself.
        ask: gives one tensor or several.
        step: of it.
    """

    name: str
    ask: Callable[[Tensor], Any]
    step: int

    def where(self) -> str:
        return f"step {self.step}" + (f", {self.name}" if self.name else "")

    def answers(self, y_hat: Tensor) -> list[Tensor]:
        out = attempt(_LAW, self.where(), self.ask, y_hat.clone())
        return [] if out is None else [out] if isinstance(out, Tensor) else list(out)


def _assert_unmoved(question: _Question, coded: Tensor, own: Tensor, masks: Sequence[Tensor], y_hat: Tensor) -> None:
    """The answers, where they are `own`, do not move with anything that is not `coded`."""
    where, before = question.where(), question.answers(y_hat)
    for number, tensor in enumerate(before):
        if not bool(tensor.isfinite().all()):
            raise LawBroken(_LAW, f"{where}: {_name(number, before)} is not finite")

    def moved(latent: Tensor) -> str | None:
        return _moved(before, question.answers(latent), own, y_hat)

    if found := moved(_disturbed(y_hat, ~coded)):
        blame = [other for other, mask in enumerate(masks) if moved(_disturbed(y_hat, mask & ~coded))]
        whose = f" with the symbols of step {', '.join(map(str, blame))}" if blame else ""
        cause = _CAUSES["own" if question.step in blame or not blame else "later"]
        raise LawBroken(_LAW, f"{where}: the {found}, moved{whose}, not coded yet", cause)
    if found := moved(torch.where(coded, y_hat, torch.nan)):
        raise LawBroken(_LAW, f"{where}: the {found}, moved with NaN in what is not coded yet", _CAUSES["nan"])


def _assert_state(context: Any, masks: Sequence[Tensor], y_hat: Tensor, side: Tensor) -> None:
    """The steps of one latent may share work; what they predict must not change by a bit."""
    begin = getattr(context, "begin", None)
    state = None if begin is None else attempt(_LAW, "begin", begin, side)
    if state is None:
        return
    for step in range(len(masks)):
        alone = list(context(step, y_hat, side))
        seen = torch.where(_coded_before(masks, step), y_hat, 0)
        found = _moved(alone, list(context(step, seen, side, state)), masks[step], y_hat)
        if not found and _refines(context, step):
            seen = torch.where(_coded_before(masks, step + 1), y_hat, 0)
            alone, shared = context.refine(step, y_hat, side), context.refine(step, seen, side, state)
            if alone is not None:
                found = _moved([alone], [shared], _whole_slice(context.order, step, y_hat), y_hat)
        if found:
            raise LawBroken(_LAW, f"step {step}: the {found}, when the steps share their state", _CAUSES["state"])


def _assert_scales(context: Any, masks: Sequence[Tensor], y_hat: Tensor, side: Tensor) -> None:
    """The scales that are known before the first step are those of the steps."""
    ask = getattr(context, "scales", None)
    scales = None if ask is None else attempt(_LAW, "scales", ask, side, context.begin(side))
    if scales is None:
        return
    for step in range(len(masks)):
        mean, scale = context(step, y_hat, side)
        ahead = scales[:, context.order.channels(step)]
        if found := _moved([mean, scale], [mean, ahead], masks[step], y_hat):
            raise LawBroken(_LAW, f"step {step}: the {found}, when all scales are asked for at once", _CAUSES["ahead"])


def _refines(context: Any, step: int) -> bool:
    """Whether the context corrects its slice after this step."""
    order = context.order
    refine = getattr(type(context), "refine", None)
    if refine is None or refine is ContextModel.refine:
        return False
    return bool(order.ends_slice(step))


def _whole_slice(order: Any, step: int, y_hat: Tensor) -> Tensor:
    mask = torch.zeros(y_hat.shape[1:], dtype=torch.bool, device=y_hat.device)
    mask[order.channels(step)] = True
    return mask


def _coded_before(masks: Sequence[Tensor], step: int) -> Tensor:
    coded = torch.zeros_like(masks[0])
    for mask in masks[:step]:
        coded = coded | mask
    return coded


def _disturbed(y_hat: Tensor, where: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(int(where.sum()))
    noise = 1e3 * torch.randn(y_hat.shape, generator=generator)
    return torch.where(where, noise.to(y_hat), y_hat)


def _moved(before: list[Tensor], after: list[Tensor], mask: Tensor, y_hat: Tensor) -> str | None:
    """The first prediction that moved where the step codes, in words."""
    for number, (a, b) in enumerate(zip(before, after, strict=True)):
        own = _own(a, mask, y_hat)
        if bool((unequal(b, a) & own).any()):
            return f"{_name(number, before)}, {difference(b.where(own, 0), a.where(own, 0))}"
    return None


def _own(tensor: Tensor, mask: Tensor, y_hat: Tensor) -> Tensor:
    """Which elements of a prediction are those of the step."""
    channels = mask.flatten(1).any(1)
    for candidate in (mask, mask[channels]):
        if tensor.shape[1:] == candidate.shape and len(tensor) == len(y_hat):
            return candidate.expand(tensor.shape)
    if tensor.dim() == 0:
        raise ArgumentError("a prediction must be a tensor with a batch of its own, got one number")
    return torch.ones_like(tensor, dtype=torch.bool)


def _name(number: int, predictions: Sequence[Tensor]) -> str:
    return ("mean", "scale")[number] if len(predictions) == 2 else f"prediction {number}"
