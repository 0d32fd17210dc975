"""Registries: nothing is overwritten, unknown names help, other packages can add theirs."""

import functools
from importlib import metadata

import pytest

import ssmctx
from ssmctx import registry
from ssmctx.errors import ArgumentError, DuplicateNameError, UnknownNameError
from ssmctx.registry import Registry


def test_builtin_components_are_registered():
    assert {"vss", "window-attention"} <= set(registry.blocks.names())
    assert "channel-spatial" in registry.contexts.names()
    assert "mambaic" in registry.entropy_models.names()
    assert {"reference", "torch"} <= set(registry.scan_backends.names())
    assert isinstance(registry.blocks.create("vss", 8), ssmctx.VSSBlock)


KINDS = [value for value in vars(registry).values() if isinstance(value, Registry)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda r: r.kind)
def test_every_registered_name_loads(kind):
    assert all(callable(kind.get(name)) for name in kind.names())


def test_a_duplicate_raises_and_changes_nothing():
    sizes = Registry("size")
    sizes.register("big", lambda: 8)
    with pytest.raises(DuplicateNameError, match=r"the size 'big' is registered already .* choose another name"):
        sizes.register("big", lambda: 9)
    assert sizes.create("big") == 8


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown block 'vs' \(did you mean 'vss'\?\); known: .*vss"):
        registry.blocks.get("vs")
    with pytest.raises(UnknownNameError, match=r"unknown size 'x'; known: none"):
        Registry("size").get("x")


def test_decorator_keeps_the_class():
    things = Registry("thing")

    @things.register("a")
    class A:
        pass

    assert isinstance(things.create("a"), A)


def test_entry_points_of_other_packages_are_found(monkeypatch):
    point = metadata.EntryPoint("theirs", "fractions:Fraction", "ssmctx.odd_kinds")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == "ssmctx.odd_kinds" else [])
    kinds = Registry("odd kind")
    assert kinds.names() == ("theirs",)
    assert kinds.create("theirs", 1, 2) == 0.5


def test_an_entry_point_whose_name_is_taken_does_not_hide_others(monkeypatch, caplog):
    targets = {"ours": "fractions:Fraction", "theirs": "fractions:Fraction"}
    points = [metadata.EntryPoint(name, target, "ssmctx.odd_kinds") for name, target in targets.items()]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    kinds = Registry("odd kind")
    kinds.register("ours", complex)
    assert kinds.names() == ("ours", "theirs")
    assert kinds.get("ours") is complex
    (message,) = caplog.messages
    assert message.startswith(
        "entry point 'ours' = 'fractions:Fraction' of the group 'ssmctx.odd_kinds' is ignored: "
        "the odd kind 'ours' is registered already"
    )


@pytest.mark.parametrize("target", ["fractions", "fractions:", ":Fraction", ""])
def test_a_target_names_module_and_attribute(target):
    things = Registry("thing")
    things.register("half", target)
    with pytest.raises(
        ArgumentError, match=f"the thing 'half' must be registered as \"module:attribute\", got '{target}'"
    ):
        things.create("half")


def test_a_component_may_take_a_keyword_called_name():
    things = Registry("thing")
    things.register("named", lambda name, self=0: (name, self))
    assert things.create("named", name="x", self=1) == ("x", 1)
    assert things.taken("named", name="x", other=2) == {"name": "x"}
    assert things.create_with("named", name="x", other=2) == ("x", 0)


def test_what_a_partial_sets_is_not_taken():
    things = Registry("thing")
    things.register("named", functools.partial(lambda size, *, first=0, second=0: (size, first, second), first=1))
    things.register("all", lambda size, **options: options)
    things.register("all but one", functools.partial(lambda size, **options: options, first=1))
    assert things.takes("named") == {"size", "second"}
    assert things.create_with("named", 3, first=5, second=2) == (3, 1, 2)
    with pytest.raises(ArgumentError, match=r"the thing 'named' takes no first; it takes size, second"):
        things.create("named", 3, first=5)
    assert things.takes("all") == {"size"}
    assert things.create_with("all", 3, first=5) == things.create("all", 3, first=5) == {"first": 5}
    assert things.create_with("all but one", 3, first=5, second=2) == {"first": 1, "second": 2}
    with pytest.raises(ArgumentError, match=r"the thing 'all but one' takes no first; it takes size"):
        things.create("all but one", 3, first=5)
