"""Entropy models: hyperprior, distributions and contexts at work, entropy coders, and the file."""

from ssmctx.entropy.bitstream import CodedImage
from ssmctx.entropy.coders import Coder, StreamDecoder, StreamEncoder
from ssmctx.entropy.factorized_prior import FactorizedPrior
from ssmctx.entropy.graphs import cuda_graphs
from ssmctx.entropy.guard import guard_scales, guarded_rows
from ssmctx.entropy.hyper import HyperSynthesis, hyper_analysis
from ssmctx.entropy.model import MambaICEntropyModel
from ssmctx.entropy.numerics import coding_numerics
from ssmctx.entropy.rans import RansCoder
from ssmctx.entropy.scale_network import ScaleNetwork
from ssmctx.entropy.steps import Step, coding_steps, drive

__all__ = [
    "CodedImage",
    "Coder",
    "FactorizedPrior",
    "HyperSynthesis",
    "MambaICEntropyModel",
    "RansCoder",
    "ScaleNetwork",
    "Step",
    "StreamDecoder",
    "StreamEncoder",
    "coding_numerics",
    "coding_steps",
    "cuda_graphs",
    "drive",
    "guard_scales",
    "guarded_rows",
    "hyper_analysis",
]
