"""Plainness: a codec saves, loads, copies and moves like any module."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssmctx.errors import ArgumentError
from ssmctx.testing.broken import LawBroken, in_brief
from ssmctx.testing.contract import code, decode, update_tables
from ssmctx.testing.laws.round_trip import assert_round_trip

__all__ = ["assert_state_dict"]

_LAW = "state dict"


def assert_state_dict(
    factory: Callable[[], Any],
    x: Tensor,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64,),
    tolerance: float = 0.0,
) -> None:
    """A codec loads state dicts of its kind, in any order, and its copies code to the same streams.

    - State dicts load whether source and target have their tables built or not, directly or inside a parent module
      (which `load_state_dict` overrides do not survive), through a file read with weights_only=True. A target that
      loaded built tables codes at once to the source's streams and decodes them.
    - deepcopy, pickle, train() and eval(), .to() another dtype and back: the same streams.
    - In each of `dtypes` the codec still round-trips.

    Args:
        factory: makes a codec, an nn.Module; called several times. Weights need not be the same each time.
        x: a latent or an image.
        dtypes: floating types to round-trip in.
        tolerance: as in `assert_round_trip`, for these.

    Raises:
        LawBroken: some of this fails; the message lists all failures.
        ArgumentError: the factory makes no nn.Module.

    Source:
        Law 7 of the design.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from ssmctx import MambaICEntropyModel
        >>> from ssmctx.context.hyper_only import HyperOnlyContext
        >>> from ssmctx.testing import assert_state_dict
        >>> def make():
        ...     h_a, h_s = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 8, 1)
        ...     return MambaICEntropyModel(M=4, hyper_channels=3, context=HyperOnlyContext(4), h_a=h_a, h_s=h_s)
        >>> assert_state_dict(make, torch.randn(1, 4, 3, 5))
    """
    source = factory()
    if not isinstance(source, nn.Module):
        raise ArgumentError(f"the factory must make an nn.Module, got {type(source).__name__}")
    checks: list[tuple[str, Callable[[], None]]] = []
    for updated, ready, inside in itertools.product((True, False), (True, False), (False, True)):
        where = "inside a parent" if inside else "directly"
        name = f"loading {where}, source {_is(updated)}, target {_is(ready)}"
        checks.append((name, lambda a=updated, b=ready, c=inside: _check_load(factory, x, a, b, c)))  # type: ignore[misc]
    for name, change in (
        ("deepcopy", copy.deepcopy),
        ("pickle", lambda codec: pickle.loads(pickle.dumps(codec))),
        ("train() and eval()", lambda codec: codec.train().eval()),
        ("double() and float()", lambda codec: copy.deepcopy(codec).double().float()),
    ):
        checks.append((name, lambda change=change: _check_copy(factory, x, change)))  # type: ignore[misc]
    for dtype in dtypes:
        checks.append((f"coding in {dtype}", lambda dtype=dtype: _check_dtype(factory, x, dtype, tolerance)))  # type: ignore[misc]

    broken = []
    for name, check in checks:
        try:
            check()
        except LawBroken as error:
            broken.append(f"{name}: {error.found}")
        except Exception as error:  # whatever a module raises when it is copied or loaded
            broken.append(f"{name}: {in_brief(error, 120)}")
    if broken:
        raise LawBroken(
            _LAW,
            f"{len(broken)} of {len(checks)} ways fail:\n    - " + "\n    - ".join(broken),
            "tables in plain attributes or non-persistent buffers; buffers that update() resizes and loading does not; "
            "a load_state_dict override, which nothing calls inside a parent; lambdas or caches in attributes; "
            "tensors made without dtype and device",
        )


def _is(updated: bool) -> str:
    return "updated" if updated else "not updated"


def _trained(factory: Callable[[], Any]) -> Any:
    """A codec whose weights differ from the factory's."""
    codec = factory()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in codec.parameters():
            if p.is_floating_point():
                p.mul_(1 + 0.03 * (2 * torch.rand(p.shape, generator=generator) - 1).to(p))
    return codec.eval()


def _check_load(factory: Callable[[], Any], x: Tensor, updated: bool, ready: bool, inside: bool) -> None:
    source, target = _trained(factory), factory().eval()
    if updated:
        update_tables(source)
    if ready:
        update_tables(target)
    saver, loader = (nn.ModuleDict({"codec": m}) if inside else m for m in (source, target))
    file = io.BytesIO()
    torch.save(saver.state_dict(), file)
    file.seek(0)
    loader.load_state_dict(torch.load(file, weights_only=True))
    if not updated:
        update_tables(source)
        update_tables(target)
    _assert_alike(source, target, x)


def _check_copy(factory: Callable[[], Any], x: Tensor, change: Callable[[Any], Any]) -> None:
    codec = _trained(factory)
    update_tables(codec)
    before = code(codec, x, _LAW)
    changed = change(codec)
    _assert_alike(codec, changed, x)
    if code(codec, x, _LAW).strings != before.strings:
        raise LawBroken(_LAW, "the original codes to other streams than before")


def _check_dtype(factory: Callable[[], Any], x: Tensor, dtype: torch.dtype, tolerance: float) -> None:
    codec = _trained(factory)
    update_tables(codec)
    assert_round_trip(codec.to(dtype), x.to(dtype), tolerance=tolerance)


def _assert_alike(one: Any, other: Any, x: Tensor) -> None:
    """Both code x to the same streams, and `other` decodes them to what `one` does."""
    coded = code(one, x, _LAW)
    if code(other, x, _LAW).strings != coded.strings:
        raise LawBroken(_LAW, "it codes to other streams than the original")
    _, expected = decode(one, coded.strings, coded.shape, _LAW)
    _, decoded = decode(other, coded.strings, coded.shape, _LAW)
    if not torch.equal(decoded, expected):
        raise LawBroken(_LAW, "it decodes the original's streams to something else")
