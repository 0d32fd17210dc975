"""`python -m ssmctx.testing MODULE:FACTORY`: a report on a codec."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ssmctx.errors import ArgumentError, SsmctxError
from ssmctx.testing.broken import in_brief
from ssmctx.testing.cases import CORRUPTIONS, Image, Latent
from ssmctx.testing.laws.round_trip import SIZES
from ssmctx.testing.report import codec_laws, judge, print_report

__all__ = ["main"]

_DESCRIPTION = """\
Check the laws of coding on a codec and print the results.

MODULE:FACTORY names a function or class without required arguments that makes the codec: a latent codec (y in, y_hat
out) or a whole model (x in, x_hat out) with CompressAI's forward, compress and decompress. The folder that you call
this from is searched for MODULE first."""

_EPILOG = """\
the laws:
  round trip      decompress(compress(x)) is what the encoder and forward have, bit for bit, in a batch and alone
  deterministic   the same image gives the same streams, again and beside other images
  any size        every size of at least 1x1 decodes to the same size
  real bits       8 * bytes lie within 1 %% + 64 bytes of -log2 of all likelihoods (required of trained models)
  state dict      saves and loads in any order, copies, pickles, changes dtype
  corruption      a damaged stream ends in a ValueError, never in an image, a crash, a hang or excessive memory
  drift           relative error of a decoder's results that changes no symbol (see --drift)

examples:
  %(prog)s mycodecs:make_entropy_model --latent-channels 192
  %(prog)s mycodecs:make_model --size 64x64 --sizes 64x64,128x192     whole model, sides of 64n only
  %(prog)s mycodecs:trained --latent-channels 192 --trained --tolerance 1e-4

exit code: 0 when all laws hold, 1 when one is broken, 2 when the codec could not be made."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m ssmctx.testing") -> int:
    """Run the command line; returns the exit code."""
    options = _parser(prog).parse_args(arguments)
    try:
        factory = _factory(options.factory)
        latent = options.latent_channels
        size = options.size or ((8, 8) if latent else (64, 64))
        sizes = options.sizes or SIZES

        def make_input(height: int, width: int) -> Any:
            if latent:
                return Latent(latent, height, width, seed=options.seed).tensor()
            return Image(height, width, seed=options.seed).tensor()

        factory()
        laws = codec_laws(
            factory,
            make_input,
            size,
            sizes,
            tolerance=options.tolerance,
            may_decode=tuple(options.may_decode),
            drift=options.drift,
        )
    except Exception as error:
        message = str(error) if isinstance(error, SsmctxError) else f"{options.factory}: {in_brief(error)}"
        print(f"ssmctx.testing: {message}", file=sys.stderr)
        return 2
    what = f"latents of {latent} channels" if latent else "images"
    title = f"{options.factory} on {what}, {size[0]}x{size[1]}, seed {options.seed}"
    return 0 if print_report(judge(laws, trained=options.trained), title) else 1


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog, None, _DESCRIPTION, _EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("factory", metavar="MODULE:FACTORY", help="what makes the codec")
    parser.add_argument(
        "--latent-channels", type=int, metavar="N", help="it is a latent codec, y has N channels; else a whole model"
    )
    parser.add_argument("--size", type=_size, metavar="HxW", help="of the input; default 8x8 latents, 64x64 images")
    parser.add_argument(
        "--sizes",
        type=lambda text: [_size(part) for part in text.split(",")],
        metavar="HxW,HxW",
        help=f"that 'any size' tries; default {','.join(f'{h}x{w}' for h, w in SIZES)}",
    )
    parser.add_argument("--trained", action="store_true", help="the codec is trained: real bits are required")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="T",
        help="largest accepted difference of reconstructions; default 0",
    )
    parser.add_argument(
        "--drift",
        type=float,
        default=0.0,
        metavar="D",
        help="relative drift that a decoder must tolerate; default 0, which only measures it",
    )
    parser.add_argument(
        "--may-decode",
        nargs="+",
        default=[],
        choices=CORRUPTIONS,
        metavar="KIND",
        help=f"kinds of damage that may decode, of {', '.join(CORRUPTIONS)}; for a codec whose checksums are elsewhere",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the input; default 0")
    return parser


def _factory(name: str) -> Callable[[], Any]:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ArgumentError(f"give MODULE:FACTORY, such as mypackage.codecs:make_codec; got {name!r}")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise ArgumentError(f"{name} must be a function or class without required arguments, got {found!r}")
    return found  # type: ignore[no-any-return]


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"a size is HxW, such as 8x12; got {text!r}")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())
