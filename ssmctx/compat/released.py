"""The checkpoint that MambaIC's authors published: read safely, checked key by key, and ready to code with.

The library comes without it and without the code that made it; bring the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssmctx.compat.released_keys import ReleasedKey, released_layout, released_sizes
from ssmctx.compat.released_model import ReleasedMambaIC
from ssmctx.errors import ArgumentError, CheckpointError

__all__ = ["ReleasedMambaIC", "convert_state_dict", "load_released", "released_sizes"]

_LISTED = 3  # keys of each kind that an error names


def convert_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename and reshape a released state dict to that of a `ReleasedMambaIC`.

    Every key must be known, present and of the right shape. What the layout stores twice must agree; what it stores
    and never uses is checked and left out. y is coded with the library's own tables, z with those of the state dict
    if it holds any.

    Args:
        state_dict: released names to tensors; may be inside `{"state_dict": ...}`, and all names may start with
            `module.`.

    Returns:
        A state dict for `ReleasedMambaIC(**released_sizes(state_dict))`; the tensors share memory with those given.

    Raises:
        CheckpointError: it is of another model, or damaged; the message lists what does not fit.

    Examples:
        >>> import torch
        >>> from ssmctx.compat.released import convert_state_dict
        >>> from ssmctx.errors import CheckpointError
        >>> try:
        ...     convert_state_dict({"conv.weight": torch.zeros(1)})
        ... except CheckpointError as error:
        ...     print(str(error).split("; ")[-1])
        1 unexpected: conv.weight
    """
    return _convert(_weights(state_dict))[1]


def load_released(source: str | os.PathLike[str] | Mapping[str, Any]) -> ReleasedMambaIC:
    """The codec of a released checkpoint, in eval mode, its coding tables built.

    A file is read as weights only: no code in it runs. Save the model's own `state_dict()` before files are to be
    exchanged with other machines: it holds the coding tables, which a checkpoint without tables has built anew on
    every machine.

    Args:
        source: path of the checkpoint, or what it holds; see `convert_state_dict`.

    Raises:
        CheckpointError: the file cannot be read as weights only, or does not fit; the message lists what does not.
        OSError: there is no such file, or it cannot be opened.

    Examples:
        >>> from ssmctx.compat.released import load_released
        >>> model = load_released("mambaic.pth.tar")  # doctest: +SKIP
        >>> coded = model.compress(x)  # doctest: +SKIP
    """
    sizes, weights = _convert(_weights(source if isinstance(source, Mapping) else _read(source)))
    model = ReleasedMambaIC(**sizes)
    model.load_state_dict(weights)
    model.eval().update()
    return model


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged and hostile files end in errors of many types
        raise CheckpointError(
            f"{os.fspath(path)} is damaged, or contains more than weights ({type(error).__name__}); if you trust it, "
            "load it yourself and save only its state dict"
        ) from error


def _weights(source: Any) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without `module.` prefixes."""
    if isinstance(source, Mapping) and isinstance(source.get("state_dict"), Mapping):
        source = source["state_dict"]
    if not isinstance(source, Mapping) or not source:
        raise CheckpointError(f"the checkpoint holds no state dict but {type(source).__name__}: {str(source)[:60]}")
    others = [name for name, value in source.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"a state dict holds tensors by name; {_listing(map(repr, others))} do not fit")
    while all(name.startswith("module.") for name in source):
        source = {name.removeprefix("module."): value for name, value in source.items()}
    return dict(source)


def _convert(state_dict: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The sizes of the model, and its state dict."""
    sizes = released_sizes(state_dict)
    with torch.device("meta"):
        try:
            model = ReleasedMambaIC(**sizes)
        except ArgumentError:  # no model has these sizes: list what differs from the published one
            sizes = released_sizes({})
            model = ReleasedMambaIC(**sizes)
    layout = released_layout(model)
    faults = {
        "missing": [name for name in layout if name not in state_dict],
        "unexpected": [name for name in state_dict if name not in layout],
        "mis-shaped": [
            f"{name} {tuple(state_dict[name].shape)} instead of {key.shape}"
            for name, key in layout.items()
            if name in state_dict and key.shape not in (None, tuple(state_dict[name].shape))
        ],
    }
    if not any(faults.values()):
        faults["contradictory"] = [
            f"{name}, which must equal {key.same_as or 'the checkerboard'}"
            for name, key in layout.items()
            if _contradicts(name, key, state_dict)
        ]
    if any(faults.values()):
        listed = "; ".join(f"{len(names)} {kind}: {_listing(names)}" for kind, names in faults.items() if names)
        own = any(name.startswith("latent_codec.") for name in state_dict)
        hint = "; it looks like one of ssmctx, which load_state_dict takes as it is" if own else ""
        tried = ", ".join(f"{name}={value}" for name, value in sizes.items())
        raise CheckpointError(f"the state dict does not fit the released layout with {tried}: {listed}{hint}")
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    weights = {
        key.ours: state_dict[name] if key.shape is None else state_dict[name].reshape(shapes[key.ours])
        for name, key in layout.items()
        if key.ours is not None
    }
    return sizes, weights


def _contradicts(name: str, key: ReleasedKey, state_dict: dict[str, Tensor]) -> bool:
    expected = state_dict[key.same_as] if key.same_as else key.value
    value = state_dict[name]
    if expected is None or value.is_meta or expected.is_meta:
        return False
    return not torch.equal(value, expected.to(value))


def _listing(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
