"""Loudness: a damaged stream ends in a typed error; never in an image, a crash, a hang or excessive memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssmctx.errors import ArgumentError
from ssmctx.testing.broken import LawBroken, in_brief
from ssmctx.testing.cases import CORRUPTIONS, Corruption, corruptions_of
from ssmctx.testing.contract import Coded, code, decode, evaluating
from ssmctx.testing.isolation import Outcome, run_each

__all__ = ["assert_rejects_corruption"]

_LAW = "corruption"
_CAUSES = {
    "end": "the decoder trusts the stream: it reads past its end, loops until it finds a mark, or allocates what a "
    "length in it says; check bounds before using them",
    "image": "nothing in the stream shows damage: store lengths and a checksum and compare them",
    "error": "the stream is used before it is checked, and some later operation happens to fail",
}


def assert_rejects_corruption(
    codec: Any,
    x: Tensor,
    corruptions: Sequence[Corruption] | None = None,
    *,
    errors: tuple[type[Exception], ...] = (ValueError,),
    may_decode: Sequence[str] = (),
    seconds: float = 30.0,
    memory_bytes: int = 2 << 30,
) -> None:
    """Every damaged stream raises one of `errors`, within bounded time and memory.

    Decoding happens in a child process where the system has fork and no GPU is in use, so that a decoder that reads
    out of bounds breaks the law and not the test run.

    Args:
        codec: as in `assert_round_trip`.
        x: a latent or an image.
        corruptions: what to do to the streams; `corruptions_of` them by default.
        errors: types that count as a refusal. `StreamError` of this library is a ValueError.
        may_decode: kinds of `CORRUPTIONS` that may also end in a reconstruction, right or wrong, for a codec that
            leaves checksums to its container. Truncation is no such thing: a decoder notices that bytes are missing.
        seconds: that one decoding may take.
        memory_bytes: that the child may take beyond what this process has.

    Raises:
        LawBroken: a damaged stream ends in anything else; the message counts the ends and gives the first corruption.
        ArgumentError: an unknown kind in `may_decode`.

    Source:
        Law 5 of the design.

    Examples:
        >>> import torch
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.errors import StreamError
        >>> from ssmctx.testing import Corruption, assert_rejects_corruption
        >>> model = MambaICEntropyModel(M=4, num_slices=2, hyper_channels=4, N=2).eval()
        >>> _ = model.update()
        >>> cut = Corruption("cut", stream=0, offset=9)
        >>> assert_rejects_corruption(model, torch.randn(1, 4, 3, 5), [cut], errors=(StreamError,))
    """
    if unknown := set(may_decode) - set(CORRUPTIONS):
        raise ArgumentError(f"may_decode takes kinds of {CORRUPTIONS}, got {sorted(unknown)}")
    coded = code(codec, x, _LAW)
    decode(codec, coded.strings, coded.shape, _LAW)
    damaged = [
        (corruption, strings)
        for corruption in (corruptions_of(coded.strings) if corruptions is None else corruptions)
        if (strings := corruption.apply(coded.strings)) != coded.strings
    ]
    intact: list[Tensor] = []
    tasks = [_decoding(codec, coded, strings, errors, intact) for _, strings in damaged]
    broken: list[tuple[str, Corruption]] = []
    fatal = False
    for (corruption, _), outcome in zip(damaged, run_each(tasks, seconds, memory_bytes), strict=True):
        if ending := _wrong_end(outcome, corruption.kind in may_decode):
            broken.append((ending, corruption))
            fatal = fatal or outcome.fatal
    if broken:
        _raise(broken, len(damaged), fatal)


def _decoding(
    codec: Any, coded: Coded, strings: Any, errors: tuple[type[Exception], ...], intact: list[Tensor]
) -> Callable[[], tuple[str, str]]:
    """A task that decodes and says how it ended: "refused", "raised" or "image", and what."""

    def task() -> tuple[str, str]:
        # each child decodes the intact streams itself: its numbers may differ from the parent's in their last bits
        if not intact:
            intact.append(decode(codec, coded.strings, coded.shape, _LAW)[1])
        try:
            with evaluating(codec):
                out = codec.decompress(strings, coded.shape)
        except errors as error:
            return "refused", type(error).__name__
        except MemoryError:
            raise
        except Exception as error:
            if "allocate memory" in str(error):
                raise
            return "raised", in_brief(error, 80)
        image = out["x_hat"] if "x_hat" in out else out["y_hat"]
        same = torch.equal(image, intact[0])
        return "image", "the right reconstruction" if same else "another reconstruction, silently"

    return task


def _wrong_end(outcome: Outcome, image_allowed: bool) -> str | None:
    if outcome.failure is not None:
        return outcome.failure
    end, what = outcome.value
    if end == "refused" or (end == "image" and image_allowed):
        return None
    return f"{what} instead of an error" if end == "image" else what


def _raise(broken: list[tuple[str, Corruption]], count: int, fatal: bool) -> None:
    endings: dict[str, list[Corruption]] = {}
    for ending, corruption in broken:
        endings.setdefault(ending, []).append(corruption)
    lines = [f"{len(found)}: {ending}, the first with {found[0]}" for ending, found in endings.items()]
    images = all("reconstruction" in ending for ending in endings)
    raise LawBroken(
        _LAW,
        f"{len(broken)} of {count} damaged streams are not rejected:\n    - " + "\n    - ".join(lines),
        _CAUSES["end" if fatal else "image" if images else "error"],
    )
