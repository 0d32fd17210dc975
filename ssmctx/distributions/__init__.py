"""Distributions: what an element of y is coded with, as likelihoods and as coding tables."""

from ssmctx.distributions.base import Distribution
from ssmctx.distributions.gaussian import Gaussian
from ssmctx.distributions.resolve import resolve_distribution
from ssmctx.distributions.scales import ScaleGrid

__all__ = ["Distribution", "Gaussian", "ScaleGrid", "resolve_distribution"]
