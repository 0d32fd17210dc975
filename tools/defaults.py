"""A griffe extension for the reference: signatures show the value of a default, not the name of its constant."""

from __future__ import annotations

import re
from typing import Any

import griffe

CONSTANT = re.compile(r"[A-Z_]*[A-Z]{2}[A-Z_]*")


class Defaults(griffe.Extension):
    """Replaces a default that is a constant of the package by what the constant is."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called by griffe when the package is loaded."""
        show(pkg)


def show(parent: griffe.Object) -> None:
    """Replace the defaults of all functions below an object."""
    for thing in parent.members.values():
        if thing.is_alias:
            continue
        if isinstance(thing, griffe.Function):
            for parameter in thing.parameters:
                parameter.default = shown(thing, parameter.default)
        elif isinstance(thing, griffe.Attribute) and parent.is_class:  # of a dataclass, say
            thing.value = shown(thing, thing.value)
        show(thing)


def shown(thing: griffe.Object, default: Any) -> Any:
    """The value of a default that is the name of a constant in the thing's module, else the default."""
    if not CONSTANT.fullmatch(str(default)) or str(default) not in thing.module.members:
        return default
    constant = thing.module.members[str(default)]
    constant = constant.final_target if constant.is_alias else constant
    return constant.value if isinstance(constant, griffe.Attribute) else default
