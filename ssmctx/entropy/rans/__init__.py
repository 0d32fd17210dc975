"""The rANS coder: numba kernels, and the same in plain Python."""

from ssmctx.entropy.rans.coder import RansCoder, RansDecoder, RansEncoder

__all__ = ["RansCoder", "RansDecoder", "RansEncoder"]
