"""The names and shapes of a released checkpoint, and which weight of ours each one is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ssmctx.compat.released_model import ReleasedMambaIC
from ssmctx.context.released import support_network
from ssmctx.layers.checkerboard import checkerboard_taps

__all__ = ["ReleasedKey", "released_layout", "released_sizes"]

# modules of ours, what they are called there, and by how much their first index differs
_MODULES = (
    ("latent_codec.context.mean_support", "atten_mean.{}.0", 0),
    ("latent_codec.context.scale_support", "atten_scale.{}.0", 1),
    ("latent_codec.context.mean", "cc_mean_transforms.{}", 1),
    ("latent_codec.context.scale", "cc_scale_transforms.{}", 1),
    ("latent_codec.context.anchors", "context_prediction.{}", 0),
    ("latent_codec.context.joint", "context_vss.{}", 0),
    ("latent_codec.context.mean_head", "anchor_atten_mean.{}.0", 0),
    ("latent_codec.context.scale_head", "anchor_atten_scale.{}.0", 0),
    ("latent_codec.context.residual", "lrp_transforms.{}", 0),
    ("latent_codec.h_a", "h_a.{}", 0),
    ("latent_codec.h_s.means", "h_mean_s.{}", 0),
    ("latent_codec.h_s.scales", "h_scale_s.{}", 0),
)
# then inside a VSS block, and inside gated attention
_PARTS = (
    (r"(\d)\.(in_proj|out_norm|out_proj)\.", r"\1.op.\2."),
    (r"(\d)\.conv\.", r"\1.op.conv2d."),
    (r"(\d)\.scan\.x_proj_weight$", r"\1.op.x_proj_weight"),
    (r"(\d)\.scan\.dt_proj_weight$", r"\1.op.dt_projs_weight"),
    (r"(\d)\.scan\.dt_bias$", r"\1.op.dt_projs_bias"),
    (r"(\d)\.scan\.A_log$", r"\1.op.A_logs"),
    (r"(\d)\.scan\.D$", r"\1.op.Ds"),
    (r"\.trunk\.(\d)\.branch\.", r".conv_a.\1.conv."),
    (r"\.gate\.(\d)\.branch\.", r".conv_b.\1.conv."),
    (r"\.gate\.(\d)\.", r".conv_b.\1."),
    (r"\.windows\.0\.", r".non_local_block.block_1."),
    (r"\.windows\.1\.", r".non_local_block.block_2."),
    (r"(block_\d)\.norm\.", r"\1.ln2."),
    (r"\.attention\.norm\.", r".ln1."),
    (r"\.attention\.qkv\.", r".msa.embedding_layer."),
    (r"\.attention\.proj\.", r".msa.linear."),
    (r"\.attention\.position_bias$", r".msa.relative_position_params"),
)
_Z_TABLES = tuple(f"entropy_bottleneck.{name}" for name in ("_offset", "_quantized_cdf", "_cdf_length"))
_Y_TABLES = tuple(
    f"gaussian_conditional.{name}" for name in ("_offset", "_quantized_cdf", "_cdf_length", "scale_table")
)
_DEFAULTS: dict[str, Any] = {
    "N": 128, "M": 320, "depths": (2, 2, 9, 2), "num_slices": 5, "hyper_channels": 192, "d_state": 16,
}  # fmt: skip
_LARGEST = 2**12  # no codec is as wide; more would be damage, and could fill the memory


@dataclass(frozen=True)
class ReleasedKey:
    """What a key of a released checkpoint must hold.

    Attributes:
        shape: its shape; None for coding tables, whose size varies.
        ours: the name of our weight; None if we have none.
        same_as: another key that must hold the same numbers, as both name one module.
        value: the numbers it must hold.
    """

    shape: tuple[int, ...] | None
    ours: str | None = None
    same_as: str | None = None
    value: Tensor | None = None


def released_layout(model: ReleasedMambaIC) -> dict[str, ReleasedKey]:
    """Every key of the released checkpoint that fits `model`, in the released naming.

    What `model` has no weight for is listed too: second names of one module, the masks of the checkerboard
    convolutions, the tables of y, and the networks for mean and scale of the first slice, which nothing uses.
    """
    layout: dict[str, ReleasedKey] = {}
    for ours, value in model.state_dict().items():
        if ours.startswith("latent_codec.y_tables."):  # the library's own
            continue
        name, shape = _released_name(ours), tuple(value.shape)
        if name in _Z_TABLES:
            layout[name] = ReleasedKey(None, ours)
            continue
        if name.endswith((".A_logs", ".Ds")):  # there the directions and the channels are one axis
            shape = (shape[0] * shape[1], *shape[2:])
        layout[name] = ReleasedKey(shape, ours)
    context: Any = model.latent_codec.context
    for name in list(layout):
        top, _, rest = name.partition(".")
        if top == "context_vss":
            k, _, rest = rest.partition(".")
            layout[f"context_vss_{int(k) + 1}.{rest}"] = ReleasedKey(layout[name].shape, same_as=name)
        elif name.startswith("atten_mean.0."):
            layout["atten_scale.0." + name.removeprefix("atten_mean.0.")] = ReleasedKey(layout[name].shape)
    for index, convolution in enumerate(context.anchors):
        mask = checkerboard_taps(convolution.kernel_size[0]).expand(convolution.weight.shape)
        layout[f"context_prediction.{index}.mask"] = ReleasedKey(tuple(mask.shape), value=mask)
    with torch.device("meta"):
        unused = support_network(context.order.num_channels, context.order.slices[0])
    for leaf, value in unused.state_dict().items():
        for transforms in ("cc_mean_transforms", "cc_scale_transforms"):
            layout[f"{transforms}.0.{leaf}"] = ReleasedKey(tuple(value.shape))
    layout.update(dict.fromkeys(_Y_TABLES, ReleasedKey(None)))
    for name in ("scale_bound", "likelihood_lower_bound.bound"):
        layout[f"gaussian_conditional.{name}"] = ReleasedKey((1,))
    return layout


def released_sizes(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `ReleasedMambaIC` that fit a released state dict, read off its shapes.

    What a damaged or foreign state dict does not tell is that of the published checkpoint.

    Args:
        state_dict: released names to tensors, without `module.` prefixes.

    Returns:
        Keyword arguments, sizes by name.

    Examples:
        >>> import torch
        >>> from ssmctx.compat.released import released_sizes
        >>> released_sizes({"g_a.0.weight": torch.zeros(32, 3, 5, 5)})["N"]
        16
    """

    def size(name: str, axis: int) -> int | None:
        value = state_dict.get(name)
        if value is None or value.dim() <= axis or value.shape[axis] > _LARGEST:
            return None
        return int(value.shape[axis])

    def stages(transform: str, count: int) -> list[int] | None:
        """VSS blocks between the strided convolutions of a transform, and the index of the last of these."""
        found = [re.fullmatch(rf"{transform}\.(\d+)\.(norm\.)?weight", name) for name in state_dict]
        layers = sorted((int(match[1]), bool(match[2])) for match in found if match)
        ends = [index for index, (_, is_block) in enumerate(layers) if not is_block]
        depths = [b - a - 1 for a, b in pairwise(ends)]
        return [*depths, layers[ends[-1]][0]] if len(depths) == count else None

    main, hyper = stages("g_a", 3), stages("h_a", 1)
    width = size("g_a.0.weight", 0)
    states = [size(name, 1) for name in state_dict if name.endswith(".A_logs")]
    read = {
        "N": width and width // 2,
        "M": size(f"g_a.{main[-1]}.weight", 0) if main else size("h_a.0.weight", 1),
        "depths": (*main[:3], hyper[0]) if main and hyper else None,
        "num_slices": len([name for name in state_dict if re.fullmatch(r"context_prediction\.\d+\.weight", name)]),
        "hyper_channels": size("entropy_bottleneck.quantiles", 0),
        "d_state": states[0] if states else None,
    }
    return {name: read[name] or default for name, default in _DEFAULTS.items()}


def _released_name(ours: str) -> str:
    if ours == "latent_codec.scale_bound.bound":
        return "gaussian_conditional.lower_bound_scale.bound"
    name = ours.replace("latent_codec.entropy_bottleneck.", "entropy_bottleneck.")
    for module, theirs, shift in _MODULES:
        match = re.match(rf"{re.escape(module)}\.(\d+)\.", name)
        if match:
            name = theirs.format(int(match[1]) + shift) + "." + name[match.end() :]
    for pattern, replacement in _PARTS:
        name = re.sub(pattern, replacement, name)
    return name
