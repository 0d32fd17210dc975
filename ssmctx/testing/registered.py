"""The laws over everything in the registries: a component that is registered later is judged without a line added.

A component is made small: it is given those of the usual keywords (M=20, num_slices=5, dim=8, ...) that its signature
has and that no `functools.partial` has set. One that cannot be made so fails its check, and says so.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssmctx import registry
from ssmctx.errors import BackendUnavailableError, StreamError
from ssmctx.scan.backend import load
from ssmctx.testing.broken import LawBroken, attempt
from ssmctx.testing.cases import Latent, ScanCase
from ssmctx.testing.contract import update_tables
from ssmctx.testing.laws.block import assert_block
from ssmctx.testing.laws.causal import assert_causal, assert_partition
from ssmctx.testing.laws.coder import assert_coder
from ssmctx.testing.laws.distribution import assert_distribution
from ssmctx.testing.laws.round_trip import assert_round_trip
from ssmctx.testing.laws.scan import assert_scan_equal
from ssmctx.testing.report import codec_laws

__all__ = ["Check", "make_small", "registered_checks"]

M, _SLICES, _DIM = 20, 5, 8
_SMALL = {
    "M": M,
    "num_slices": _SLICES,
    "hyper_channels": 6,
    "N": 4,
    "dim": _DIM,
    "d_state": 3,
    "window_size": 4,
}
_JUDGED = (
    registry.blocks,
    registry.codecs,
    registry.coders,
    registry.contexts,
    registry.distributions,
    registry.entropy_models,
    registry.scan_backends,
)
_CAUSAL_SIZES = ((1, 1), (5, 7))
_SCANS = (
    ScanCase(batch=2, height=5, width=7, channels=9, states=3),
    ScanCase(height=1, width=1, channels=65, states=16, dt_shift=-12.0, seed=1),
    ScanCase(height=9, width=4, channels=3, states=5, directions=("column-reversed",), softplus=False, seed=2),
    ScanCase(batch=2, height=3, width=6, channels=66, states=3, rank=3, seed=3),
)


@dataclass(frozen=True)
class Check:
    """A law on a registered component.

    Attributes:
        kind: of the component, as its registry says it.
        name: that it is registered under.
        law: short name of the law.
        run: raises `LawBroken`, or `BackendUnavailableError` where the component cannot run here.
    """

    kind: str
    name: str
    law: str
    run: Callable[[], object]


def registered_checks() -> Iterator[Check]:
    """Every law on every registered component, those of other packages' entry points included.

    Examples:
        >>> from ssmctx.testing.registered import registered_checks
        >>> checks = list(registered_checks())
        >>> [check.law for check in checks if check.name == "window-attention"]
        ['block']
    """
    for name in registry.blocks.names():
        yield Check("block", name, "block", functools.partial(_check_block, name))
    for name in registry.codecs.names():
        yield Check("codec", name, "round trip", functools.partial(_check_codec, name))
    for name in registry.coders.names():
        yield Check("coder", name, "coder", functools.partial(_check_coder, name))
    for name in registry.contexts.names():
        yield Check("context", name, "causal", functools.partial(_check_causal, name))
        yield Check("context", name, "round trip", functools.partial(_check_context_codes, name))
    for name in registry.distributions.names():
        yield Check("distribution", name, "distribution", functools.partial(_check_distribution, name))
    for name in registry.entropy_models.names():
        laws = codec_laws(functools.partial(make_small, registry.entropy_models, name), _latent, errors=(StreamError,))
        laws.pop("real bits")  # required of trained models only
        laws.pop("drift")  # of which no amount is required
        for law, run in laws.items():
            yield Check("entropy model", name, law, run)
    for name in registry.scan_backends.names():
        for dtype in (torch.float32, torch.float64):
            law = f"fast = slow, {str(dtype).removeprefix('torch.')}"
            yield Check("scan backend", name, law, functools.partial(_check_scan, name, dtype))
    for kind in vars(registry).values():
        if isinstance(kind, registry.Registry) and kind not in _JUDGED:
            for name in kind.names():
                yield Check(kind.kind, name, "none", functools.partial(_check_nothing, kind.kind))


def make_small(of: registry.Registry[Any], name: str) -> Any:
    """A registered component, made small and ready for evaluation.

    Args:
        of: the registry.
        name: in it.

    Raises:
        LawBroken: it cannot be made with the keywords of its signature that are usual.
    """
    target = attempt("registry", f"the {of.kind} {name!r}", of.get, name)
    taken = of.takes(name)
    keywords = {key: value for key, value in _SMALL.items() if key in taken}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = attempt(
            "registry",
            f"{of.kind} {name!r} made with {keywords}",
            lambda: target(**keywords),
            cause="a component must be made from the keywords of its kind and defaults alone",
        )
    return made.eval() if isinstance(made, torch.nn.Module) else made


def _latent(height: int, width: int) -> Tensor:
    return Latent(M, height, width).tensor()


def _check_block(name: str) -> None:
    assert_block(make_small(registry.blocks, name), _DIM)


def _check_codec(name: str) -> None:
    codec = attempt("registry", f"the codec {name!r}", lambda: registry.codecs.create(name, device="cpu"))
    assert_round_trip(codec, Latent(3, 37, 50).tensor().sigmoid())


def _check_coder(name: str) -> None:
    target = registry.coders.get(name)
    assert_coder(target())


def _check_causal(name: str) -> None:
    context = make_small(registry.contexts, name)
    channels = context.order.num_channels
    for height, width in _CAUSAL_SIZES:
        assert_partition(context.order, (height, width))
        y_hat = Latent(channels, height, width).tensor()
        assert_causal(context, y_hat, Latent(2 * channels, height, width, seed=1).tensor())


def _check_context_codes(name: str) -> None:
    """The context inside every entropy model that takes one."""
    context = make_small(registry.contexts, name)
    channels = context.order.num_channels
    for model in registry.entropy_models.names():
        target = registry.entropy_models.get(model)
        if "context" not in inspect.signature(target).parameters:
            continue
        codec = attempt(
            "registry",
            f"entropy model {model!r} around the context",
            lambda: target(M=channels, context=context, hyper_channels=6, N=4),  # noqa: B023 - called at once
        ).eval()
        update_tables(codec)
        assert_round_trip(codec, Latent(channels, 5, 6).tensor())


def _check_distribution(name: str) -> None:
    distribution = make_small(registry.distributions, name)
    if distribution.name != name:  # files say it
        raise LawBroken(
            "distribution", f"{distribution!r} is registered as {name!r} and has the name {distribution.name!r}"
        )
    assert_distribution(distribution)


def _check_scan(name: str, dtype: torch.dtype) -> None:
    backend = load(name)
    for case in _SCANS:
        if reason := backend.refuses(torch.device("cpu"), dtype, case.states):
            raise BackendUnavailableError(f"scan backend {name!r}: {reason}")
        assert_scan_equal(name, case, dtype=dtype)


def _check_nothing(kind: str) -> None:
    raise LawBroken("registry", f"no law judges components of the kind {kind!r}", "a new kind: give it laws here")
