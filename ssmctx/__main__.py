"""`python -m ssmctx`: what an installed user needs from a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points

from ssmctx.errors import SsmctxError, UnknownNameError

__all__ = ["main"]

_PROG = "python -m ssmctx"

_DESCRIPTION = """\
Entropy-model components for learned image compression.

commands:
  backends      which scan backends can run here, and why not
  profile       parameters, multiply-adds and memory of the context models
  test          try the laws of coding on your codec, MODULE:FACTORY
  compress      code images into .sic files, by default with the bundled checkpoint
  decompress    decode .sic files into image files"""

_EPILOG = """\
examples:
  python -m ssmctx backends
  python -m ssmctx profile --context carried-state
  python -m ssmctx test mycodecs:make_entropy_model --latent-channels 192
  python -m ssmctx compress photo.png photo.sic
  python -m ssmctx decompress photo.sic decoded.png

python -m ssmctx COMMAND --help says more. compress and decompress are those of the example, whose other commands are
under `mambaic`; they need Pillow and tqdm: pip install 'ssmctx[examples]'."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, 2 after a one-line error."""
    parser = argparse.ArgumentParser(
        _PROG, None, _DESCRIPTION, _EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=_COMMANDS, metavar="COMMAND", help="one of those above")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="what the command takes")
    options = parser.parse_args(arguments)
    try:
        return _COMMANDS[options.command](options.command, options.arguments)
    except SsmctxError as error:
        print(f"{_PROG} {options.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


def _backends(name: str, arguments: list[str]) -> int:
    from ssmctx.scan import backends

    argparse.ArgumentParser(
        f"{_PROG} {name}",
        description="Print the scan backends that are registered, whether each can run here, and why not.",
        epilog='`scan_backend="auto"` takes the fastest that can take the scan at hand.',
    ).parse_args(arguments)
    backends()
    return 0


def _profile(name: str, arguments: list[str]) -> int:
    from ssmctx.profile import main as profile

    profile(arguments, f"{_PROG} {name}")
    return 0


def _test(name: str, arguments: list[str]) -> int:
    from ssmctx.testing.__main__ import main as test

    return test(arguments, f"{_PROG} {name}")


def _of_the_example(name: str, arguments: list[str]) -> int:
    """A command of the example, found by its entry point, since ssmctx does not import the example."""
    found = [*entry_points(group="console_scripts", name="mambaic")]
    if not found:
        raise UnknownNameError(
            f"{name} is a command of the example, which is not installed: pip install 'ssmctx[examples]'"
        )
    return int(found[0].load()([name, *arguments], _PROG))


_COMMANDS: dict[str, Callable[[str, list[str]], int]] = {
    "backends": _backends,
    "profile": _profile,
    "test": _test,
    "compress": _of_the_example,
    "decompress": _of_the_example,
}


if __name__ == "__main__":
    sys.exit(main())
