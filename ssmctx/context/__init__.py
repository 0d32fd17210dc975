"""Context models: what is coded when, and its distribution given what is coded already."""

from ssmctx.context.base import ContextModel
from ssmctx.context.carried_state import CarriedStateContext
from ssmctx.context.channel_spatial import ChannelSpatialContext
from ssmctx.context.order import CodingOrder, Lattice
from ssmctx.context.scale_first import ScaleFirst

__all__ = ["CarriedStateContext", "ChannelSpatialContext", "CodingOrder", "ContextModel", "Lattice", "ScaleFirst"]
