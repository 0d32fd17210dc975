"""What `MambaICEntropyModel` is given, checked: contexts and scale networks, strings and sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeGuard

import torch
from torch import nn

from ssmctx.context.base import ContextModel
from ssmctx.context.channel_spatial import ChannelSpatialContext
from ssmctx.distributions import ScaleGrid
from ssmctx.entropy.scale_network import ScaleNetwork
from ssmctx.entropy.streams import Sections
from ssmctx.errors import ArgumentError
from ssmctx.registry import contexts

__all__ = ["check_coded", "check_zeroing", "context_of", "is_size", "scale_network_of"]


def check_zeroing(zeroing: float) -> None:
    """Raise ArgumentError unless a worth of a bit is a number from 0 on."""
    if not isinstance(zeroing, Real) or not 0 <= zeroing < math.inf:
        raise ArgumentError(f"MambaICEntropyModel: zeroing must be a number from 0 on, got {zeroing!r}")


def context_of(M: int, num_slices: int | None, context: ContextModel | str | None) -> ContextModel:
    """The context model that the arguments ask for."""
    if context is None:
        return ChannelSpatialContext(M, num_slices)
    if num_slices is not None:
        raise ArgumentError("MambaICEntropyModel: num_slices configures the default context; give one of them")
    made: ContextModel = contexts.create(context, M) if isinstance(context, str) else context
    order = getattr(made, "order", None)
    if order is None or not isinstance(made, nn.Module):
        raise ArgumentError(
            f"MambaICEntropyModel: context must be a ContextModel or a name of one, got {type(made).__name__}"
        )
    if order.num_channels != M:
        raise ArgumentError(f"MambaICEntropyModel: the context must have M={M} channels, got {order.num_channels}")
    return made


def check_coded(
    strings: Sequence[Sequence[bytes]], shape: Mapping[str, Any], kinds: int
) -> tuple[list[Sections], torch.Size, torch.Size]:
    """The sections of each image, and the sizes of y and z; `kinds` is how many lists of strings there must be."""
    nested = isinstance(strings, (list, tuple)) and all(isinstance(streams, (list, tuple)) for streams in strings)
    counts = [len(streams) for streams in strings] if nested else []
    wanted = f"[{', '.join(('y streams', 'z streams', 'checksums', 'guards')[:kinds])}]"
    if counts and 2 <= len(counts) < kinds and len(set(counts)) == 1:
        raise ArgumentError(
            f"strings must be {wanted}, got {len(counts)} lists: keep all that "
            "compress gives, since y and z do not decode safely without the others"
        )
    if len(counts) != kinds or len(set(counts)) != 1 or not counts[0]:
        raise ArgumentError(
            f"strings must be {wanted}, one of each per image, "
            f"got {f'lists of lengths {counts}' if nested else f'{strings!r:.80}'}"
        )
    sizes = []
    for key in ("y", "hyper"):
        size = shape.get(key) if isinstance(shape, Mapping) else None
        if not is_size(size):
            raise ArgumentError(f'shape must be {{"y": (H, W), "hyper": (h, w)}} in latent cells, got {shape!r}')
        sizes.append(torch.Size(size))
    return [Sections(*image) for image in zip(*strings, strict=True)], sizes[0], sizes[1]


def is_size(size: Any) -> TypeGuard[Sequence[int]]:
    """Whether it is a height and a width, integers of at least 1."""
    return isinstance(size, (list, tuple)) and [isinstance(n, int) and n >= 1 for n in size] == [True, True]


def scale_network_of(
    scales: ScaleNetwork | str | None, context: ContextModel, hyper_channels: int, grid: ScaleGrid
) -> ScaleNetwork | None:
    """The scale network that `scales` asks for."""
    if isinstance(scales, str):
        if scales not in ("integer", "float"):
            raise ArgumentError(f"MambaICEntropyModel: scales are 'integer', 'float' or a ScaleNetwork, got {scales!r}")
        return ScaleNetwork(context.order, hyper_channels, grid=grid, exact=scales == "integer")
    if scales is None:
        if context.means_only:
            raise ArgumentError(
                f"MambaICEntropyModel: {type(context).__name__} predicts means only: take the scales from a scale "
                "network, scales='integer', or make the context with means_only=False"
            )
        return None
    if not isinstance(scales, nn.Module):
        raise ArgumentError(f"MambaICEntropyModel: scales are 'integer', 'float' or a ScaleNetwork, got {scales!r:.80}")
    wanted = (context.order, hyper_channels, grid)
    found = tuple(getattr(scales, name, None) for name in ("order", "hyper_channels", "grid"))
    if found != wanted:
        raise ArgumentError(
            f"MambaICEntropyModel: the scale network must be made for order, hyper_channels and grid {wanted}, got "
            f"{found}"
        )
    return scales
