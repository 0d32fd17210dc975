"""ssmctx: entropy-model components for learned image compression, around MambaIC (CVPR 2025)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ssmctx import registry as _registry

if TYPE_CHECKING:
    from ssmctx.codec import ImageCodec, load
    from ssmctx.context import CarriedStateContext, ChannelSpatialContext, CodingOrder, ContextModel
    from ssmctx.entropy.model import MambaICEntropyModel
    from ssmctx.layers import VSSBlock, WindowLocalAttention
    from ssmctx.profile import profile
    from ssmctx.scan import backends, selective_scan

__version__ = "0.2.0"

__all__ = [
    "CarriedStateContext",
    "ChannelSpatialContext",
    "CodingOrder",
    "ContextModel",
    "ImageCodec",
    "MambaICEntropyModel",
    "VSSBlock",
    "WindowLocalAttention",
    "__version__",
    "backends",
    "load",
    "profile",
    "selective_scan",
]

# imported when first used, so that `import ssmctx` costs little more than `import torch`
_HOMES = {
    "CarriedStateContext": "ssmctx.context",
    "ChannelSpatialContext": "ssmctx.context",
    "CodingOrder": "ssmctx.context",
    "ContextModel": "ssmctx.context",
    "ImageCodec": "ssmctx.codec",
    "MambaICEntropyModel": "ssmctx.entropy.model",
    "VSSBlock": "ssmctx.layers",
    "WindowLocalAttention": "ssmctx.layers",
    "backends": "ssmctx.scan",
    "load": "ssmctx.codec",
    "profile": "ssmctx.profile",
    "selective_scan": "ssmctx.scan",
}

_registry.scan_backends.register("reference", "ssmctx.scan.reference:backend")
_registry.scan_backends.register("torch", "ssmctx.scan.chunked:backend")
_registry.scan_backends.register("cpu", "ssmctx.scan.cpu.launch:backend")
_registry.scan_backends.register("triton", "ssmctx.scan.triton.launch:backend")
_registry.scan_backends.register("mamba_ssm", "ssmctx.scan.mamba_ssm:backend")
_registry.blocks.register("vss", "ssmctx.layers.vss:VSSBlock")
_registry.blocks.register("window-attention", "ssmctx.layers.window_attention:WindowLocalAttention")
_registry.blocks.register("cnn", "ssmctx.layers.foundation:ConvBlock")
_registry.blocks.register("transformer", "ssmctx.layers.foundation:TransformerBlock")
_registry.contexts.register("channel-spatial", "ssmctx.context.channel_spatial:ChannelSpatialContext")
_registry.contexts.register("carried-state", "ssmctx.context.carried_state:CarriedStateContext")
_registry.contexts.register("carried-state-scale-first", "ssmctx.context.scale_first:carried_state_scale_first")
_registry.contexts.register("none", "ssmctx.context.hyper_only:HyperOnlyContext")
_registry.contexts.register("channel", "ssmctx.context.variants:channel_only")
_registry.contexts.register("no-wla", "ssmctx.context.variants:no_window_attention")
_registry.contexts.register("narrow-attention", "ssmctx.context.variants:narrow_attention")
_registry.contexts.register("mambavc", "ssmctx.context.variants:mambavc")
_registry.contexts.register("window-4", "ssmctx.context.variants:window_4")
_registry.contexts.register("window-16", "ssmctx.context.variants:window_16")
_registry.contexts.register("cnn", "ssmctx.context.variants:cnn")
_registry.contexts.register("transformer", "ssmctx.context.variants:transformer")
_registry.contexts.register("released", "ssmctx.context.released:ReleasedContext")
_registry.contexts.register("uneven", "ssmctx.context.variants:uneven")
_registry.coders.register("rans", "ssmctx.entropy.rans:RansCoder")
_registry.coders.register("constriction", "ssmctx.entropy.constriction_coder:ConstrictionCoder")
_registry.distributions.register("gaussian", "ssmctx.distributions.gaussian:Gaussian")
_registry.distributions.register("laplace", "ssmctx.distributions.laplace:Laplace")
_registry.distributions.register("logistic", "ssmctx.distributions.logistic:Logistic")
_registry.distributions.register(
    "generalised-gaussian", "ssmctx.distributions.generalised_gaussian:GeneralisedGaussian"
)
_registry.entropy_models.register("mambaic", "ssmctx.entropy.model:MambaICEntropyModel")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ssmctx' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
