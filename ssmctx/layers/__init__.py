"""Drop-in layers on NCHW images."""

from ssmctx.layers.vss import SS2D, VSSBlock
from ssmctx.layers.window_attention import WindowLocalAttention

__all__ = ["SS2D", "VSSBlock", "WindowLocalAttention"]
