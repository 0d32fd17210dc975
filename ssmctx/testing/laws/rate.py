"""The rate: the bits that are reported are the bits that are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ssmctx.testing.broken import LawBroken
from ssmctx.testing.contract import code, count_bits, estimate, estimated_bits

__all__ = ["assert_real_bits"]

_LAW = "real bits"


def assert_real_bits(
    codec: Any,
    x: Tensor,
    *,
    relative: float = 0.01,
    slack_bytes: int = 64,
    bpp_of: Callable[[Mapping[str, Any]], float] | None = None,
    estimated_bpp_of: Callable[[Mapping[str, Any]], float] | None = None,
    pixels: int | None = None,
) -> None:
    """Real bits match forward's estimate, and the user's own rate functions.

    Real bits are 8 * the bytes of all streams, however nested; estimated bits are -log2 of all likelihoods, summed.
    They lie within `relative` and `slack_bytes` per image of each other. The law is required of a trained model on
    inputs like those it was trained on: where latents are far from what the model expects, likelihoods are clipped
    and the coder escapes.

    Args:
        codec: as in `assert_round_trip`.
        x: a latent or an image.
        relative: share of the estimate that may be lost to tables and to the coder.
        slack_bytes: bytes per image that may be lost to headers, checksums and ends of streams.
        bpp_of: your function from compress's dict to bits per pixel, checked against the real bits.
        estimated_bpp_of: your function from forward's dict to bits per pixel, checked against the likelihoods' sum.
        pixels: what these two divide by; batch * height * width of x by default.

    Raises:
        LawBroken: two of these disagree; the message says by how much, and how the estimate is made up.

    Source:
        Law 4 of the design.

    Examples:
        >>> from ssmctx.testing import Latent, assert_real_bits
        >>> from ssmctx import MambaICEntropyModel
        >>> model = MambaICEntropyModel(M=4, num_slices=2, hyper_channels=4, N=2).eval()
        >>> _ = model.update()
        >>> assert_real_bits(model, Latent(4, 4, 4, scale=0.1).tensor(), relative=1.0)
    """
    parts = estimated_bits(estimate(codec, x, _LAW))
    coded = code(codec, x, _LAW)
    estimated, real = sum(parts.values()), count_bits(coded.strings)
    slack = 8 * slack_bytes * len(x)
    made_of = " + ".join(f"{name} {bits:.0f}" for name, bits in parts.items())

    if not abs(real - estimated) <= relative * estimated + slack:  # written so that NaN fails too
        share = f"{real / estimated - 1:+.1%}" if estimated > 0 else "from nothing"
        raise LawBroken(
            _LAW,
            f"{real} real bits, {estimated:.0f} estimated ({made_of}), {share}; "
            f"allowed are {relative:.1%} and {slack} bits",
            "the estimate omits a latent such as z, or its distribution is not the coder's: another scale, another "
            "mean, tables older than the weights; or the model is not trained for such input"
            if real > estimated
            else "the estimate counts unwritten bits, or clips likelihoods that the coder codes more cheaply: "
            "the model is not trained for such input",
        )
    count = x.shape[0] * x.shape[-2] * x.shape[-1] if pixels is None else pixels
    if bpp_of is not None:
        reported = bpp_of(coded.whole) * count
        if not abs(reported - real) <= relative * real + slack:
            raise LawBroken(
                _LAW,
                f"bpp_of reports {reported:.0f} bits ({reported / count:.4g} per pixel), "
                f"the streams have {real} ({real / count:.4g} per pixel)",
                "len() of a nested list counts lists, not bytes: sum len(stream) over all streams; or one latent or "
                "the factor 8 is missing",
            )
    if estimated_bpp_of is not None:
        reported = estimated_bpp_of(estimate(codec, x, _LAW)) * count
        if not abs(reported - estimated) <= 1e-3 * estimated + 1:
            raise LawBroken(
                _LAW,
                f"estimated_bpp_of reports {reported:.0f} bits, all likelihoods make {estimated:.0f} ({made_of})",
                "a latent such as z is left out, or log is taken for log2",
            )
