"""Distributions: what an element of y is coded with, as likelihoods and as coding tables."""

from ssmctx.distributions.base import Distribution
from ssmctx.distributions.gaussian import Gaussian
from ssmctx.distributions.generalised_gaussian import GeneralisedGaussian
from ssmctx.distributions.laplace import Laplace
from ssmctx.distributions.logistic import Logistic
from ssmctx.distributions.resolve import resolve_distribution
from ssmctx.distributions.scales import ScaleGrid

__all__ = [
    "Distribution",
    "Gaussian",
    "GeneralisedGaussian",
    "Laplace",
    "Logistic",
    "ScaleGrid",
    "resolve_distribution",
]
