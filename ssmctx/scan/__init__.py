"""The selective scan over images and sequences."""

from ssmctx.scan.backend import Backend, backends
from ssmctx.scan.directions import DIRECTIONS
from ssmctx.scan.images import cross_selective_scan
from ssmctx.scan.sequence import selective_scan

__all__ = ["DIRECTIONS", "Backend", "backends", "cross_selective_scan", "selective_scan"]
