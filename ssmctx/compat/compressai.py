"""CompressAI knows our components by name once this is imported.

    import ssmctx.compat.compressai
    from compressai.registry import MODULES

    latent_codec = MODULES["MambaICEntropyModel"](M=192, hyper_channels=192)

Source:
    CompressAI's `compressai.registry`; tested with its versions 1.2.6 to 1.2.8, and with the fork that PyPI has as
    `compressai-temp`, version 1.2.9.dev0, which is imported under the same name.
"""

from __future__ import annotations

import importlib
import warnings

import compressai
from compressai.registry import MODELS, MODULES

from ssmctx import registry
from ssmctx.compat.released_model import ReleasedMambaIC
from ssmctx.errors import DuplicateNameError

__all__ = ["TESTED", "register"]

TESTED = ("1.2.6", "1.2.8")
"""Oldest and newest version of CompressAI that the tests ran with."""

_TESTED_FORK = "1.2.9.dev0"  # of compressai-temp

_NAMES = ("VSSBlock", "WindowLocalAttention", "ChannelSpatialContext", "MambaICEntropyModel")


def register() -> None:
    """Put our modules into CompressAI's `MODULES` and the codec into its `MODELS`; done on import.

    Modules have the names of the main API, context models of `ssmctx.registry.contexts` "ssmctx.context." and their
    name; the codec, in the released layout, is "mambaic".

    Raises:
        DuplicateNameError: one of the names stands for something else there.

    Examples:
        >>> import ssmctx.compat.compressai
        >>> from compressai.registry import MODULES
        >>> context = MODULES["ssmctx.context.uneven"](M=60)
        >>> MODULES["MambaICEntropyModel"](M=60, hyper_channels=24, N=8, context=context).context.order.slices
        (3, 3, 6, 12, 36)
    """
    main_api = importlib.import_module("ssmctx")
    ours = {name: getattr(main_api, name) for name in _NAMES}
    ours |= {f"ssmctx.context.{name}": registry.contexts.get(name) for name in registry.contexts.names()}
    for kind, known, components in (("module", MODULES, ours), ("model", MODELS, {"mambaic": ReleasedMambaIC})):
        for name, component in components.items():
            if known.setdefault(name, component) is not component:
                raise DuplicateNameError(f"CompressAI has another {kind} called {name!r} already: {known[name]!r}")


def _check_version(version: str) -> None:
    oldest, newest = (tuple(map(int, end.split("."))) for end in TESTED)
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if version != _TESTED_FORK and not oldest <= numbers <= newest:
        warnings.warn(
            f"compressai {version} is not among the versions that ssmctx is tested with, {TESTED[0]} to {TESTED[1]}",
            stacklevel=2,
        )


_check_version(compressai.__version__)  # its own word: of a fork the metadata has another name
register()
