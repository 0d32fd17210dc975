"""Drift: how far the numbers of a decoder may be off before it reads other symbols than were encoded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ssmctx.errors import ArgumentError
from ssmctx.testing.broken import LawBroken, attempt
from ssmctx.testing.contract import Coded, code, decode
from ssmctx.testing.isolation import run_each

__all__ = ["DRIFTS", "assert_agrees_under_drift", "drifting", "largest_drift"]

_LAW = "drift"
_SYMBOL = 0.5  # a symbol that changed moves y_hat by about a whole step, drift of a mean by far less
_EXACT = 2.0**53
DRIFTS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Relative disturbances that are tried. Machines differ by 1e-6 to 1e-4; the rounding of float32 is 6e-8."""


def assert_agrees_under_drift(codec: Any, x: Tensor, drift: float, *, seed: int = 0) -> None:
    """A decoder whose numbers are off by up to `drift`, relatively, reads the symbols that were encoded.

    See `drifting` for what is off. y_hat may be off by what the means are; one that is off by half a quantisation step
    stands for another symbol.

    Args:
        codec: a latent codec or a whole model with g_s, in CompressAI's contract, its tables built.
        x: a latent for the one, an image for the other; any batch.
        drift: relative disturbance of every result, such as 1e-5.
        seed: of the disturbance.

    Raises:
        LawBroken: the decoder gives another latent, raises, or ends its process.
        ArgumentError: the latent cannot be seen: decompress gives no y_hat, and there is no g_s that is handed it.

    Source:
        Law 3 of the design, on two machines.

    Examples:
        >>> import torch
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.testing import assert_agrees_under_drift
        >>> model = MambaICEntropyModel(M=4, num_slices=2, hyper_channels=4, N=2, scales="integer").eval()
        >>> _ = model.update()
        >>> assert_agrees_under_drift(model, torch.randn(1, 4, 3, 5), 1e-3)
    """
    found = next(_findings(codec, x, [drift], seed))
    if found:
        raise LawBroken(
            _LAW,
            f"with every result off by up to {drift:g}, {found}",
            "scales are floating-point numbers: next to a border of the coding tables two machines use different rows; "
            "guard them (guard_band=), or take them from integers (scales='integer')",
        )


def largest_drift(codec: Any, x: Tensor, drifts: Sequence[float] = DRIFTS, *, seed: int = 0) -> float | None:
    """The largest drift up to which a decoder reads the symbols that were encoded.

    Args:
        codec: as in `assert_agrees_under_drift`.
        x: a latent or an image; any batch.
        drifts: which are tried, increasing.
        seed: of the disturbance.

    Returns:
        The last of `drifts` before the first that fails; None where the first fails.

    Examples:
        >>> import torch
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.testing import largest_drift
        >>> model = MambaICEntropyModel(M=4, num_slices=2, hyper_channels=4, N=2, scales="integer").eval()
        >>> _ = model.update()
        >>> largest_drift(model, torch.randn(1, 4, 3, 5))
        0.01
    """
    largest = None
    for drift, found in zip(drifts, _findings(codec, x, drifts, seed), strict=False):
        if found:
            break
        largest = drift
    return largest


@contextmanager
def drifting(codec: nn.Module, drift: float, seed: int = 0) -> Iterator[None]:
    """Disturb the output of every module with parameters of its own by random relative errors of up to `drift`.

    That is what another device, library or number of threads does, made larger. Integers in float64 are left as
    they are: sums of them are exact on every machine. So are the transforms of pixels, g_a and g_s.

    Args:
        codec: whose modules are disturbed, in place, until the end of the block.
        drift: largest relative error.
        seed: of the errors.
    """
    generator = torch.Generator().manual_seed(seed)

    def off(x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_floating_point():
            if x.dtype == torch.float64 and bool(((x == x.round()) & (x.abs() < _EXACT)).all()):
                return x
            error = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
            return (x.double() * (1 + drift * error.to(x.device))).to(x.dtype)
        if isinstance(x, Mapping):
            return {key: off(value) for key, value in x.items()}
        if isinstance(x, tuple) and hasattr(x, "_make"):  # a NamedTuple
            return x._make(map(off, x))
        return type(x)(map(off, x)) if type(x) in (list, tuple) else x

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        return off(output)

    handles = [
        module.register_forward_hook(hook)
        for name, module in codec.named_modules()
        if any(True for _ in module.parameters(recurse=False)) and not {"g_a", "g_s"} & set(name.split("."))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _findings(codec: Any, x: Tensor, drifts: Sequence[float], seed: int) -> Iterator[str]:
    """What goes wrong at each drift, in words; "" for nothing. Each in a child: wrong data crashes some coders."""
    coded = code(codec, x, _LAW)
    decoder = attempt(_LAW, "copying the codec", copy.deepcopy, codec)
    expected = _latent(decoder, coded)

    def task(drift: float) -> Callable[[], str]:
        def decodes() -> str:
            with drifting(decoder, drift, seed):
                try:
                    found = _latent(decoder, coded)
                except LawBroken as error:
                    return error.found
            # written so that NaN is wrong
            wrong = ~((found - expected).abs() < _SYMBOL)
            if not bool(wrong.any()):
                return ""
            share = wrong.double().mean().item()
            return f"{share:.2%} of the latent's elements are off by half a quantisation step or more"

        return decodes

    for outcome in run_each([task(drift) for drift in drifts]):
        yield outcome.failure or outcome.value


def _latent(codec: Any, coded: Coded) -> Tensor:
    """y_hat as the decoder has it: what it returns, or what g_s is given."""
    seen: list[Tensor] = []
    g_s = getattr(codec, "g_s", None)
    handle = None
    if isinstance(g_s, nn.Module):
        handle = g_s.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        key, decoded = decode(codec, coded.strings, coded.shape, _LAW)
    finally:
        if handle is not None:
            handle.remove()
    if key == "y_hat":
        return decoded
    if not seen:
        raise ArgumentError("drift is judged by y_hat: decompress must return it, or hand it to a module named g_s")
    return torch.cat(seen)
