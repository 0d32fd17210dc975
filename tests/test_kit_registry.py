"""The conformance kit over everything in the registries; what is registered later is judged without a line added."""

from __future__ import annotations

import pytest
import torch
from gallery.faulty_codecs import BatchStatistics
from gallery.faulty_parts import SeesALaterSlice, loses_the_carry
from gallery.one_thread import one_thread  # noqa: F401 - applies to every test here
from hypothesis import given
from hypothesis import strategies as st

from ssmctx import ChannelSpatialContext, registry
from ssmctx.errors import BackendUnavailableError, StreamError
from ssmctx.scan.backend import load
from ssmctx.testing import (
    Latent,
    LawBroken,
    assert_causal,
    assert_rejects_corruption,
    assert_round_trip,
    assert_scan_equal,
    update_tables,
)
from ssmctx.testing.registered import M, make_small, registered_checks
from ssmctx.testing.strategies import corruptions, latents, law_settings, scan_cases, seeds, sizes

CHECKS = list(registered_checks())
MODELS = registry.entropy_models.names()


def model(name):
    codec = make_small(registry.entropy_models, name)
    update_tables(codec)
    return codec


def parameter(check):
    return pytest.param(check, id=f"{check.kind}-{check.name}-{check.law}".replace(" ", "-"))


@pytest.mark.parametrize("check", [parameter(check) for check in CHECKS])
def test_registered_components_keep_the_laws(check):
    try:
        check.run()
    except BackendUnavailableError as reason:
        pytest.skip(str(reason))


def test_every_registered_name_is_judged():
    judged = {(check.kind, check.name) for check in CHECKS}
    kinds = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
    assert len(kinds) >= 4
    assert judged == {(kind.kind, name) for kind in kinds for name in kind.names()}


def test_a_kind_without_laws_is_noticed(monkeypatch):
    new = registry.Registry("size")
    new.register("big", lambda: 8)
    monkeypatch.setattr(registry, "new", new, raising=False)
    [planted] = [check for check in registered_checks() if check.kind == "size"]
    with pytest.raises(LawBroken, match="no law judges components of the kind 'size'"):
        planted.run()


class NeedsItsOwnKeyword(torch.nn.Module):
    def __init__(self, foo):
        super().__init__()


@pytest.mark.parametrize(
    ("kind", "component", "law", "found"),
    [
        (registry.contexts, lambda: SeesALaterSlice(), "causal", "moved with the symbols of step 2"),
        (registry.blocks, BatchStatistics, "block", "beside another image"),
        (registry.blocks, NeedsItsOwnKeyword, "registry", "'planted' made with {} raised TypeError"),
        (registry.scan_backends, loses_the_carry, "fast = slow", "v of backend 'planted'"),
    ],
    ids=["context", "block", "keyword", "scan backend"],
)
def test_a_component_registered_later_is_judged(monkeypatch, kind, component, law, found):
    monkeypatch.setattr(kind, "_targets", {**kind._targets})
    kind.register("planted", component)
    planted = [check for check in registered_checks() if check.name == "planted"]
    assert planted
    try:
        with pytest.raises(LawBroken, match=found) as caught:
            planted[0].run()
    finally:
        load.cache_clear()
    assert caught.value.law == law


@law_settings()
@given(slices=st.integers(1, 3), width=st.integers(1, 4), size=sizes(9), seed=seeds())
def test_channel_spatial_contexts_of_any_slicing_are_causal(slices, width, size, seed):
    torch.manual_seed(seed)
    context = ChannelSpatialContext(slices * width, slices, window_size=4, d_state=2).eval()
    y_hat, side = Latent(slices * width, *size, seed=seed), Latent(2 * slices * width, *size, seed=seed + 1)
    assert_causal(context, y_hat.tensor(), side.tensor())


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in registry.scan_backends.names()
        if name != "reference" and not load(name).refuses(torch.device("cpu"), torch.float32, 17)
    ],
)
@law_settings()
@given(case=scan_cases())
def test_scan_backends_equal_the_reference(name, case):
    assert_scan_equal(name, case)


@pytest.mark.parametrize("name", MODELS)
def test_any_latent_round_trips(name):
    codec = model(name)

    @law_settings()
    @given(latents(M, largest=14, most=2))
    def law(case):
        assert_round_trip(codec, case.tensor())

    law()


@pytest.mark.parametrize("name", MODELS)
def test_any_corruption_is_refused(name):
    codec, y = model(name), Latent(M, 3, 2).tensor()

    @law_settings()
    @given(st.lists(corruptions(), min_size=1, max_size=2))
    def law(cases):
        assert_rejects_corruption(codec, y, cases, errors=(StreamError,))

    law()
