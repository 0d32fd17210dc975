"""The round trip: what is decoded is what was encoded, and what was estimated."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssmctx.testing.broken import LawBroken, attempt, difference, unequal
from ssmctx.testing.contract import Coded, code, decode, estimate, of_image

__all__ = ["SIZES", "assert_any_size", "assert_deterministic", "assert_round_trip"]

SIZES = ((1, 1), (1, 2), (2, 1), (3, 3), (1, 13), (5, 8), (7, 11), (8, 8), (9, 4), (16, 17))
"""Sizes of latents that often fail: single cells, rows, odd sides, primes, whole windows and one more."""

_DRIFT = 1e-3
_CAUSES = {
    "memory": "the decoder needs what the encoder keeps in the object: put all of it into the strings and the shape",
    "decoder": "encoder and decoder use different orders, one of them uses data that the other does not have, or "
    "only one of them corrects y_hat",
    "forward": "forward quantises differently from compress: without the mean, in one pass instead of two, "
    "with networks on another grid, or from y where only y_hat is known",
    "alone": "images of a batch share statistics, or the decoder keeps something from the image before",
    "drift": "the symbols are the same, the numbers differ in their last bits: networks run on another shape or batch "
    "size give other roundings; a scale that falls on the other side of a table's border then decodes to garbage",
    "random": "noise, dropout or drop-path in evaluation mode, or a result that depends on threads",
}


def assert_round_trip(codec: Any, x: Tensor, *, tolerance: float = 0.0) -> Coded:
    """decompress(compress(x)) gives the encoder's and forward's reconstruction, bit for bit; in a batch and alone.

    A copy decodes that was made before anything was encoded: what the encoder keeps in the object does not help.

    Args:
        codec: a latent codec or a whole model in CompressAI's contract, its tables built; taken in evaluation mode.
        x: a latent for the one, an image for the other; any batch. Each image is also decoded and coded alone.
        tolerance: largest accepted difference between reconstructions. Above 0 the law only says that the symbols
            survive here, and nothing of other machines.

    Returns:
        What `compress` made.

    Raises:
        LawBroken: two reconstructions differ, or a call raised or changed its input.

    Source:
        Law 3 of the design.

    Examples:
        >>> import torch
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.testing import assert_round_trip
        >>> model = MambaICEntropyModel(M=4, num_slices=2, hyper_channels=4, N=2).eval()
        >>> _ = model.update()
        >>> coded = assert_round_trip(model, torch.randn(2, 4, 3, 5))
    """
    return _assert_round_trip("round trip", codec, x, tolerance)


def assert_any_size(
    codec: Any,
    make_input: Callable[[int, int], Tensor],
    sizes: Sequence[tuple[int, int]] = SIZES,
    *,
    tolerance: float = 0.0,
) -> None:
    """Every size of at least 1x1 round-trips and keeps its size.

    Args:
        codec: as in `assert_round_trip`.
        make_input: make_input(height, width), a latent or an image.
        sizes: which sizes.
        tolerance: as in `assert_round_trip`.

    Raises:
        LawBroken: some sizes fail; the message lists them and what was found at the first.

    Examples:
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.testing import Latent, assert_any_size
        >>> model = MambaICEntropyModel(M=4, num_slices=2, hyper_channels=4, N=2).eval()
        >>> _ = model.update()
        >>> assert_any_size(model, lambda height, width: Latent(4, height, width).tensor(), [(1, 1), (3, 8)])
    """
    broken: list[tuple[str, LawBroken]] = []
    for height, width in sizes:
        try:
            _assert_round_trip("any size", codec, make_input(height, width), tolerance)
        except LawBroken as error:
            broken.append((f"{height}x{width}", error))
    if broken:
        size, first = broken[0]
        raise LawBroken(
            "any size",
            f"{len(broken)} of {len(sizes)} sizes fail ({', '.join(name for name, _ in broken)}); "
            f"at {size}: {first.found}",
            first.cause or "padding that is not cropped, or halves of an odd side",
        ) from first


def assert_deterministic(codec: Any, x: Tensor) -> None:
    """The same image gives the same streams: again, under another random seed, and in another batch.

    Args:
        codec: as in `assert_round_trip`.
        x: a latent or an image; any batch.

    Raises:
        LawBroken: streams or reconstructions differ.

    Examples:
        >>> import torch
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.testing import assert_deterministic
        >>> model = MambaICEntropyModel(M=4, num_slices=2, hyper_channels=4, N=2).eval()
        >>> _ = model.update()
        >>> assert_deterministic(model, torch.randn(1, 4, 3, 5))
    """
    law = "deterministic"
    once = code(codec, x, law)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0x5EED)
        again = code(codec, x, law)
    if again.strings != once.strings:
        raise LawBroken(law, "compressing the same input twice gives other streams", _CAUSES["random"])
    _, first = decode(codec, once.strings, once.shape, law)
    _, second = decode(codec, once.strings, once.shape, law, "decompressing a second time")
    if found := difference(second, first):
        raise LawBroken(law, f"decompressing a second time gives another reconstruction: {found}", _CAUSES["alone"])
    # another batch: every image with a mirrored, louder one
    batch = len(x)
    both = code(codec, torch.cat([x, 2 * x.flip(-1)]), law)
    for image in range(batch):
        among = of_image(both.strings, image, 2 * batch, law)
        alone = code(codec, x[image : image + 1], law).strings
        if among != alone:
            raise LawBroken(law, f"image {image} gives other streams beside other images than alone", _CAUSES["alone"])


def _assert_round_trip(law: str, codec: Any, x: Tensor, tolerance: float) -> Coded:
    fresh = attempt(law, "copying the codec before it codes", copy.deepcopy, codec)
    estimated = estimate(codec, x, law)
    coded = code(codec, x, law)
    key, decoded = _decoded(codec, fresh, coded, law)
    if decoded.shape != x.shape:
        raise LawBroken(
            law,
            f"an input of shape {tuple(x.shape)} comes back as {tuple(decoded.shape)}",
            "padding that is not cropped, or a size taken from the network instead of from the stream",
        )
    if key == "y_hat" and coded.y_hat is not None:
        _compare(law, "decompress gives another y_hat than compress", codec, decoded, coded.y_hat, tolerance, "decoder")
    if key not in estimated:
        raise LawBroken(law, f"decompress gives {key}, forward gives only {sorted(estimated)}")
    expected = estimated[key]
    if key == "x_hat" and decoded.min() >= 0 and decoded.max() <= 1:
        expected = expected.clamp(0, 1)  # decoders of whole models clamp, their forward does not
    _compare(law, f"decompress gives another {key} than forward", codec, decoded, expected, tolerance, "forward")
    for image in range(len(x) if len(x) > 1 else 0):
        strings = of_image(coded.strings, image, len(x), law)
        own = decoded[image : image + 1]
        _, alone = decode(codec, strings, coded.shape, law, f"decompressing image {image} alone")
        _compare(law, f"image {image} decodes differently alone", codec, alone, own, tolerance, "alone")
        if code(codec, x[image : image + 1], law).strings != strings:
            raise LawBroken(law, f"image {image} gives other streams alone than in its batch", _CAUSES["alone"])
    return coded


def _decoded(codec: Any, fresh: Any, coded: Coded, law: str) -> tuple[str, Tensor]:
    """What a second codec decodes, made before the first coded: it knows nothing but strings and shape."""
    try:
        return decode(fresh, coded.strings, coded.shape, law)
    except LawBroken as error:
        try:
            decode(codec, coded.strings, coded.shape, law)
        except LawBroken:
            raise error from None
        raise LawBroken(
            law, f"only the codec that encoded can decode; a copy: {error.found}", _CAUSES["memory"]
        ) from None


def _compare(law: str, what: str, codec: Any, actual: Tensor, expected: Tensor, tolerance: float, cause: str) -> None:
    found = difference(actual, expected, tolerance)
    if found is None:
        return
    if actual.shape == expected.shape and actual.dtype == expected.dtype:
        apart = unequal(actual, expected, tolerance)
        found += _first_step(codec, apart)
        if bool((actual - expected).abs().max() < _DRIFT):
            cause = "drift"
    raise LawBroken(law, f"{what}: {found}", _CAUSES[cause])


def _first_step(codec: Any, apart: Tensor) -> str:
    """Names the first coding step that differs, where the codec has a context with a coding order."""
    order = getattr(getattr(codec, "context", None), "order", None)
    if order is None or apart.dim() != 4:
        return ""
    size = (apart.shape[2], apart.shape[3])
    for step in range(order.num_steps):
        wrong = apart & order.mask(step, size).to(apart.device)
        if bool(wrong.any()):
            return f"; wrong from step {step} on, element {wrong.nonzero()[0].tolist()}"
    return ""
