"""A report: every law on one codec, each in a child process, as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssmctx.errors import ArgumentError
from ssmctx.testing.broken import LawBroken
from ssmctx.testing.contract import ready
from ssmctx.testing.isolation import run_each
from ssmctx.testing.laws.corruption import assert_rejects_corruption
from ssmctx.testing.laws.drift import assert_agrees_under_drift, largest_drift
from ssmctx.testing.laws.rate import assert_real_bits
from ssmctx.testing.laws.round_trip import SIZES, assert_any_size, assert_deterministic, assert_round_trip
from ssmctx.testing.laws.state import assert_state_dict

__all__ = ["Verdict", "codec_laws", "judge", "print_report", "run_laws"]

_WIDTH = 110


@dataclass(frozen=True)
class Verdict:
    """The result of a law.

    Attributes:
        law: its name.
        result: "holds", "BROKEN", or "untrained": broken, but required of trained models only.
        seconds: it took.
        found: what was found where it does not hold; for drift, also the tolerated amount.
    """

    law: str
    result: str
    seconds: float
    found: str = ""


def codec_laws(
    factory: Callable[[], Any],
    make_input: Callable[[int, int], Tensor],
    size: tuple[int, int] = (8, 8),
    sizes: Sequence[tuple[int, int]] = SIZES,
    *,
    tolerance: float = 0.0,
    errors: tuple[type[Exception], ...] = (ValueError,),
    may_decode: Sequence[str] = (),
    drift: float = 0.0,
) -> dict[str, Callable[[], str | None]]:
    """The laws of a codec, by name, ready to be called.

    Args:
        factory: makes the codec, an nn.Module; its tables are built here.
        make_input: make_input(height, width) gives a batch of one, latent or image.
        size: for all laws but "any size".
        sizes: for "any size".
        tolerance: see `assert_round_trip`.
        errors: see `assert_rejects_corruption`.
        may_decode: see `assert_rejects_corruption`.
        drift: that a decoder must tolerate, see `assert_agrees_under_drift`; 0 only measures it.
    """
    made: list[Any] = []

    def codec() -> Any:
        if not made:
            made.append(ready(factory))
        return made[0]

    def batch() -> Tensor:
        one = make_input(*size)
        return torch.cat([one, one.flip(-1)])

    return {
        "round trip": lambda: _ignore(assert_round_trip(codec(), batch(), tolerance=tolerance)),
        "deterministic": lambda: assert_deterministic(codec(), make_input(*size)),
        "any size": lambda: assert_any_size(codec(), make_input, sizes, tolerance=tolerance),
        "real bits": lambda: assert_real_bits(codec(), make_input(*size)),
        "state dict": lambda: assert_state_dict(factory, make_input(*size), tolerance=tolerance),
        "corruption": lambda: assert_rejects_corruption(
            codec(), make_input(*size), errors=errors, may_decode=may_decode
        ),
        "drift": lambda: _bears_drift(codec(), make_input(*size), drift),
    }


def judge(
    laws: Mapping[str, Callable[[], str | None]],
    *,
    trained: bool = True,
    seconds: float = 600.0,
    memory_bytes: int = 8 << 30,
) -> Iterator[Verdict]:
    """Check laws one after the other; a crash in one does not affect the others.

    Args:
        laws: functions that raise `LawBroken`, by name; what one returns in words is told where it holds.
        trained: whether "real bits" is required.
        seconds: that a law may take.
        memory_bytes: that all may take beyond what this process has.
    """
    # a law starts children of its own where it expects crashes; this one catches those that nobody expects
    tasks = [_task(law) for law in laws.values()]
    for name, outcome in zip(laws, run_each(tasks, seconds, memory_bytes), strict=True):
        holds, found = (False, outcome.failure) if outcome.failure else outcome.value
        result = "holds" if holds else "BROKEN" if trained or name != "real bits" else "untrained"
        yield Verdict(name, result, outcome.seconds, found)


def run_laws(
    factory: Callable[[], Any],
    make_input: Callable[[int, int], Tensor],
    size: tuple[int, int] = (8, 8),
    sizes: Sequence[tuple[int, int]] = SIZES,
    *,
    trained: bool = False,
    **options: Any,
) -> list[Verdict]:
    """Check every law on a codec.

    Args:
        factory: makes the codec, an nn.Module; its tables are built here.
        make_input: make_input(height, width) gives a batch of one, latent or image.
        size: for all laws but "any size".
        sizes: for "any size".
        trained: whether the factory's codec is trained for such input, so that "real bits" is required.
        options: `tolerance`, see `assert_round_trip`; `errors` and `may_decode`, see `assert_rejects_corruption`;
            `drift`, see `assert_agrees_under_drift`.

    Returns:
        A verdict per law.

    Examples:
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.testing import Latent, run_laws
        >>> verdicts = run_laws(
        ...     lambda: MambaICEntropyModel(M=4, num_slices=2, hyper_channels=4, N=2),
        ...     lambda height, width: Latent(4, height, width).tensor(),
        ...     size=(4, 4),
        ...     sizes=[(1, 1), (3, 5)],
        ... )
        >>> verdicts[0].law, verdicts[0].result
        ('round trip', 'holds')
    """
    return list(judge(codec_laws(factory, make_input, size, sizes, **options), trained=trained))


def print_report(verdicts: Iterable[Verdict], title: str = "") -> bool:
    """Print verdicts as a table, one by one: law, result, time, and the findings below.

    Args:
        verdicts: such as `judge` or `run_laws` give.
        title: a line above the table.

    Returns:
        Whether no law is broken.

    Examples:
        >>> from ssmctx.testing import Verdict, print_report
        >>> verdicts = [Verdict("round trip", "holds", 0.25), Verdict("real bits", "BROKEN", 1.0, "90 bits, not 80")]
        >>> _ = print_report(verdicts)
        law            result     time
        round trip     holds      0.2 s
        real bits      BROKEN     1.0 s
            90 bits, not 80
    """
    if title:
        print(title)
    print(f"{'law':14} {'result':10} time", flush=True)
    sound = True
    for verdict in verdicts:
        sound = sound and verdict.result != "BROKEN"
        print(f"{verdict.law:14} {verdict.result:10} {verdict.seconds:.1f} s", flush=True)
        for line in verdict.found.splitlines():
            depth = 4 + len(line) - len(line.lstrip())
            print(textwrap.fill(line.strip(), _WIDTH, initial_indent=" " * depth, subsequent_indent=" " * (depth + 2)))
    return sound


def _task(law: Callable[[], str | None]) -> Callable[[], tuple[bool, str]]:
    def task() -> tuple[bool, str]:
        try:
            return True, law() or ""
        except LawBroken as error:
            return False, f"{error.found}" + (f"\nusual cause: {error.cause}" if error.cause else "")

    return task


def _bears_drift(codec: Any, x: Tensor, required: float) -> str:
    try:
        assert_agrees_under_drift(codec, x, required)
        return f"a decoder's results may be off by {largest_drift(codec, x):g}, relatively, before symbols change"
    except ArgumentError as error:
        if required:
            raise
        return f"not judged: {error}"


def _ignore(_: object) -> None:
    return None
