"""All laws of a codec as one class of tests to inherit; needs hypothesis."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from hypothesis import given
from torch import Tensor

from ssmctx.errors import ArgumentError
from ssmctx.testing.cases import Image, Latent
from ssmctx.testing.contract import ready
from ssmctx.testing.laws.corruption import assert_rejects_corruption
from ssmctx.testing.laws.drift import assert_agrees_under_drift
from ssmctx.testing.laws.rate import assert_real_bits
from ssmctx.testing.laws.round_trip import SIZES, assert_any_size, assert_deterministic, assert_round_trip
from ssmctx.testing.laws.state import assert_state_dict
from ssmctx.testing.strategies import corruptions, images, latents, law_settings

__all__ = ["CodecLaws"]


class CodecLaws:
    """Inherit, define how your codec is made, and pytest checks every law on it.

    A latent codec says how many `channels` its y has; a whole model leaves that out and is given images. How many
    examples a property tries is up to the profile, see `ssmctx.testing.strategies.law_settings`.

    Attributes:
        make: a static method without arguments that makes the codec, an nn.Module; its tables are built here.
        channels: of y; None for a whole model.
        multiple: sides are multiples of this. Stay at 1 unless your documentation says otherwise.
        largest: side that properties try; None for 24 cells or 96 pixels.
        size: at which all else is tried; None for 8x8 cells or 64x64 pixels, rounded up to `multiple`.
        sizes: that "any size" tries; None for those of `SIZES` times `multiple`.
        most: images per batch.
        kinds: of latents, as in `LATENTS`.
        tolerance: see `assert_round_trip`.
        errors: that refuse a damaged stream.
        may_decode: kinds of damage that may also end in a reconstruction.
        drift: relative drift of a decoder's numbers that must leave the symbols as they are.
        trained: whether the codec is trained, so that its real bits must be those it estimates.
        threads: of torch while a law is tried; None leaves them. Small codecs run many times faster on one.

    Examples:
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.testing.suite import CodecLaws
        >>> class TestMine(CodecLaws):
        ...     channels = 4
        ...     make = staticmethod(lambda: MambaICEntropyModel(M=4, num_slices=2, hyper_channels=4, N=2))
        >>> TestMine().test_deterministic()
    """

    make: ClassVar[Callable[[], Any]]
    channels: ClassVar[int | None] = None
    multiple: ClassVar[int] = 1
    largest: ClassVar[int | None] = None
    size: ClassVar[tuple[int, int] | None] = None
    sizes: ClassVar[Sequence[tuple[int, int]] | None] = None
    most: ClassVar[int] = 3
    kinds: ClassVar[tuple[str, ...]] = ("normal", "halves", "constant", "zero")
    tolerance: ClassVar[float] = 0.0
    errors: ClassVar[tuple[type[Exception], ...]] = (ValueError,)
    may_decode: ClassVar[Sequence[str]] = ()
    drift: ClassVar[float] = 0.0
    trained: ClassVar[bool] = False
    threads: ClassVar[int | None] = 1

    def setup_method(self) -> None:
        self._threads_before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def teardown_method(self) -> None:
        torch.set_num_threads(self._threads_before)

    def make_input(self, height: int, width: int) -> Tensor:
        """What the laws code at a size; override it where your codec was not trained for noise."""
        if self.channels is None:
            return Image(height, width).tensor()
        return Latent(self.channels, height, width).tensor()

    def test_round_trip(self) -> None:
        codec, largest = self._codec(), self.largest or (96 if self.channels is None else 24)
        cases: Any = (
            images(largest, self.multiple, self.most)
            if self.channels is None
            else latents(self.channels, largest, self.multiple, self.most, self.kinds)
        )

        @law_settings()
        @given(cases)
        def law(case: Latent | Image) -> None:
            assert_round_trip(codec, case.tensor(), tolerance=self.tolerance)

        law()

    def test_any_size(self) -> None:
        sizes = self.sizes or [(self.multiple * height, self.multiple * width) for height, width in SIZES]
        assert_any_size(self._codec(), self.make_input, sizes, tolerance=self.tolerance)

    def test_deterministic(self) -> None:
        assert_deterministic(self._codec(), self._input())

    def test_real_bits(self) -> None:
        if not self.trained:
            import pytest

            pytest.skip("real bits are required of a trained model: set trained = True, and make_input to match")
        assert_real_bits(self._codec(), self._input())

    def test_state_dict(self) -> None:
        assert_state_dict(self._make(), self._input(), tolerance=self.tolerance)

    def test_agrees_under_drift(self) -> None:
        if not self.drift:
            import pytest

            pytest.skip("no drift is required of this codec: set drift to what it must tolerate")
        assert_agrees_under_drift(self._codec(), self._input(), self.drift)

    def test_rejects_corruption(self) -> None:
        assert_rejects_corruption(self._codec(), self._input(), errors=self.errors, may_decode=self.may_decode)

    def test_rejects_any_corruption(self) -> None:
        codec, x = self._codec(), self._input()

        @law_settings()
        @given(corruptions())
        def law(case: Any) -> None:
            assert_rejects_corruption(codec, x, [case], errors=self.errors, may_decode=self.may_decode)

        law()

    def _make(self) -> Callable[[], Any]:
        make = getattr(type(self), "make", None)
        if make is None:
            raise ArgumentError(f"{type(self).__name__} must define make = staticmethod(function that makes the codec)")
        return make  # type: ignore[no-any-return]

    def _codec(self) -> Any:
        return _ready(self._make())

    def _input(self) -> Tensor:
        side = self.multiple * -(-(64 if self.channels is None else 8) // self.multiple)
        return self.make_input(*(self.size or (side, side)))


@functools.lru_cache(maxsize=8)
def _ready(make: Callable[[], Any]) -> Any:
    """A codec with its tables; made once for all tests of a class."""
    return ready(make)
