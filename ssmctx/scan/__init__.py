"""The selective scan over pictures and sequences."""

from ssmctx.scan.directions import DIRECTIONS
from ssmctx.scan.dispatch import cross_selective_scan

__all__ = ["DIRECTIONS", "cross_selective_scan"]
