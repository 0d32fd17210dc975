"""The factorised prior of z, and its coding tables from exact integers."""

from ssmctx.entropy.factorized_prior.prior import FactorizedPrior

__all__ = ["FactorizedPrior"]
