"""Typed registries: one per kind of component, open to other packages through entry points."""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
from collections.abc import Callable
from importlib import metadata
from typing import Any, Generic, TypeVar, cast, overload

from ssmctx.errors import ArgumentError, DuplicateNameError, UnknownNameError

__all__ = ["Registry", "blocks", "codecs", "coders", "contexts", "distributions", "entropy_models", "scan_backends"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Names for the components of one kind.

    A component is registered as an object or as the string `"module:attribute"`, which is imported when it is first
    used. Other packages add theirs with an entry point in the group `ssmctx.<kind>s` (`ssmctx.contexts`,
    `ssmctx.scan_backends`); those are read when a name is first looked up. One whose name is taken is ignored, with a
    warning in the log.

    Args:
        kind: what the components are, in the singular, as used in error messages.

    Examples:
        >>> from ssmctx.registry import Registry
        >>> sizes = Registry[int]("size")
        >>> sizes.register("big", lambda: 8)        # doctest: +ELLIPSIS
        <function ...>
        >>> sizes.create("big"), sizes.names()
        (8, ('big',))
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.group = f"ssmctx.{kind.replace(' ', '_')}s"
        self._targets: dict[str, Callable[..., T] | str] = {}
        self._plugins_read = False

    @overload
    def register(self, name: str) -> Callable[[F], F]: ...
    @overload
    def register(self, name: str, target: str) -> str: ...
    @overload
    def register(self, name: str, target: F) -> F: ...

    def register(self, name: str, target: Any = None) -> Any:
        """Add a component under a new name; without `target`, a decorator.

        Args:
            name: the name to add.
            target: a class or function that makes the component, or `"module:attribute"`.

        Returns:
            The target itself, so that decorated classes stay what they are.

        Raises:
            DuplicateNameError: the name is taken; nothing is ever overwritten.
        """
        if target is None:
            return lambda decorated: self.register(name, decorated)
        if name in self._targets:
            raise DuplicateNameError(
                f"the {self.kind} {name!r} is registered already (as {self._targets[name]!r}); choose another name"
            )
        self._targets[name] = target
        return target

    def names(self) -> tuple[str, ...]:
        """All registered names, sorted."""
        self._read_plugins()
        return tuple(sorted(self._targets))

    def get(self, name: str) -> Callable[..., T]:
        """The class or function registered under `name`.

        Raises:
            UnknownNameError: no such name; the message lists the known ones and the nearest match.
            ArgumentError: the name stands for a string that is not `"module:attribute"`.
        """
        if name not in self._targets:
            self._read_plugins()
        if name not in self._targets:
            near = difflib.get_close_matches(str(name), self._targets, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            known = ", ".join(self.names()) or "none"
            raise UnknownNameError(f"unknown {self.kind} {name!r}{hint}; known: {known}")
        target = self._targets[name]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            if not module or not attribute:
                raise ArgumentError(
                    f'the {self.kind} {name!r} must be registered as "module:attribute", got {target!r}'
                )
            target = cast("Callable[..., T]", getattr(importlib.import_module(module), attribute))
            self._targets[name] = target
        return target

    def create(self, name: str, /, *args: Any, **kwargs: Any) -> T:
        """Call the component registered under `name` with the given arguments.

        Raises:
            UnknownNameError: no such name.
            ArgumentError: a keyword that the component does not take; the message lists those that it takes.
        """
        known, takes_all, is_set = self._keywords(name)
        unknown = sorted(key for key in kwargs if key in is_set or not (takes_all or key in known))
        if unknown:
            raise ArgumentError(
                f"the {self.kind} {name!r} takes no {', '.join(unknown)}; it takes {', '.join(known) or 'none'}"
            )
        return self.get(name)(*args, **kwargs)

    def takes(self, name: str) -> frozenset[str]:
        """The keywords that the component registered under `name` takes: those of its signature that are not set.

        A `functools.partial` sets keywords; `create` refuses them. Where the signature ends in `**options`, `create`
        takes others, too.
        """
        return frozenset(self._keywords(name)[0])

    def taken(self, name: str, /, **offered: Any) -> dict[str, Any]:
        """Those of the offered keywords that `create` takes under `name`."""
        known, takes_all, is_set = self._keywords(name)
        return {key: value for key, value in offered.items() if key not in is_set and (takes_all or key in known)}

    def create_with(self, name: str, /, *args: Any, **offered: Any) -> T:
        """Call the component registered under `name` with those of the offered keywords that it takes.

        For what many components of a kind take and some do not, such as `d_state`; `create` raises at those.
        """
        return self.create(name, *args, **self.taken(name, **offered))

    def _keywords(self, name: str) -> tuple[list[str], bool, frozenset[str]]:
        """The keywords that a component takes by name, whether it takes all others, and those that are set already."""
        target = self.get(name)
        is_set = frozenset(getattr(target, "keywords", {}))  # of a functools.partial
        parameters = inspect.signature(target).parameters.values()
        by_name = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        return [key for key in by_name if key not in is_set], takes_all, is_set

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        self._plugins_read = True
        for point in metadata.entry_points(group=self.group):
            try:
                self.register(point.name, point.value)
            except DuplicateNameError as error:  # of one package, which must not hide those of others
                logging.getLogger("ssmctx").warning(
                    "entry point %r = %r of the group %r is ignored: %s", point.name, point.value, self.group, error
                )


blocks: Registry[Any] = Registry("block")
"""Foundation blocks, (batch, dim, H, W) to the same; made with `dim` and, for transforms, `drop_path`."""

coders: Registry[Any] = Registry("coder")
"""Entropy coders, `ssmctx.entropy.coders.Coder`; made without arguments."""

codecs: Registry[Any] = Registry("codec")
"""Trained codecs, `ssmctx.ImageCodec`, ready to code; made with `device`. `ssmctx.load` takes them from here."""

contexts: Registry[Any] = Registry("context")
"""Context models, `ssmctx.ContextModel`; made with `M`."""

distributions: Registry[Any] = Registry("distribution")
"""What an element of y is coded with, `ssmctx.distributions.Distribution`; made without arguments."""

entropy_models: Registry[Any] = Registry("entropy model")
"""Entropy models, latent codecs in CompressAI's contract; made with `M`."""

scan_backends: Registry[Any] = Registry("scan backend")
"""Scan backends, `ssmctx.scan.Backend`; made without arguments."""
