"""Classes that pass another library's `isinstance` checks, without that library being imported."""

from __future__ import annotations

import functools
import sys
from typing import Any, ClassVar

__all__ = ["Lookalike"]

_object_class: Any = object.__dict__["__class__"]
_originals: dict[type, type] = {}  # of each combined class the one that it was made of


class Lookalike:
    """Base of classes whose instances pass another library's `isinstance`, as soon as that library is loaded.

    `isinstance` asks the type first and then the attribute `__class__`. Once the other class can be found in
    `sys.modules`, that attribute returns a subclass of both; `type(instance)` stays as it is. So methods are always
    those of the class itself, and nothing is imported.

    Args:
        of: the other class as "module:name", a keyword of the class statement.

    Examples:
        >>> import fractions, sys
        >>> from ssmctx.lookalike import Lookalike
        >>> class Half(Lookalike, of="fractions:Fraction"):
        ...     pass
        >>> isinstance(Half(), fractions.Fraction), isinstance(Half(), Half), type(Half()) is Half
        (True, True, True)
        >>> class Unknown(Lookalike, of="not_loaded:Thing"):
        ...     pass
        >>> Unknown().__class__ is Unknown
        True
    """

    _other: ClassVar[tuple[str, str]] = ("", "")

    def __init_subclass__(cls, of: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if of:
            module, _, name = of.partition(":")
            cls._other = module, name

    @property
    def __class__(self) -> Any:
        return _seen_as(type(self))

    @__class__.setter
    def __class__(self, cls: type) -> None:  # FSDP and parametrisations give a module another class, and take it back
        _object_class.__set__(self, _originals.get(cls, cls))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # pickle's own way compares the class with `__class__`, and refuses
        cls = type(self)
        state = object.__reduce_ex__(self, 2)[2]
        return _bare, (_originals.get(cls, cls),), state


def _seen_as(cls: Any) -> type:
    module, name = cls._other
    other = getattr(sys.modules.get(module), name, None)
    seen: type = cls if other is None or issubclass(cls, other) else _combined(cls, other)
    return seen


@functools.cache
def _combined(cls: type, other: type) -> type:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    both = type(cls)(cls.__name__, (cls, other), names)
    _originals[both] = cls
    return both


def _bare(cls: Any) -> Any:
    return cls.__new__(cls)
