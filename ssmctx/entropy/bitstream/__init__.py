"""The `.sic` file: its sections, its integers and its checksums, and its older versions."""

from ssmctx.entropy.bitstream.coded_image import CodedImage

__all__ = ["CodedImage"]
