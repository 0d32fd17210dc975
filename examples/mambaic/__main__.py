"""MambaIC end to end: train the full codec, evaluate it, and turn images into files and back."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable

from mambaic.commands import (
    ablate,
    bdrate,
    classical,
    compress,
    decompress,
    demo,
    evaluate,
    explain,
    latency,
    plot,
    plot_sizes,
    train,
)

os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")

EXAMPLES = """examples:
  %(prog)s demo
  %(prog)s compress photo.png photo.sic --quality 50 --effort 3
  %(prog)s decompress photo.sic photo.png
  %(prog)s train --data photos/ --preset tiny --lr 1e-3 --out tiny.pt
  %(prog)s eval --data kodak/ --checkpoint tiny.pt --json kodak.json
  %(prog)s plot kodak.json --out rd.png
  %(prog)s bdrate mambaic elic --anchor vtm
  %(prog)s explain photo.png --checkpoint tiny.pt
"""

COMMANDS = (
    train,
    evaluate,
    compress,
    decompress,
    demo,
    classical,
    bdrate,
    plot,
    plot_sizes,
    latency,
    ablate,
    explain,
)


def main(arguments: list[str] | None = None, prog: str = "mambaic") -> int:
    """Run one sub-command; returns the exit code: 0, 2 after a one-line error, or 128 plus the signal number."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":  # a name that cannot be shown must not end what is done
            stream.reconfigure(errors="backslashreplace")
    options = vars(_parser(prog).parse_args(arguments))
    run = options.pop("run")
    from ssmctx.errors import SsmctxError

    try:
        _with_packages(run, argparse.Namespace(**options))
    except SsmctxError as error:
        print(f"mambaic: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"mambaic: {type(error).__name__}: {error}: check the path, its permissions and the disk", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt as stop:
        print(f"mambaic: {str(stop) or 'stopped; the last checkpoint is complete'}", file=sys.stderr)
        return 128 + getattr(stop, "signal", signal.SIGINT)
    return 0


def _with_packages(run: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Run a command; say which extra has a package that it lacks."""
    try:
        run(options)
    except ModuleNotFoundError as error:
        from mambaic.errors import MissingPackageError

        if str(error.name).partition(".")[0] in ("mambaic", "ssmctx"):
            raise
        raise MissingPackageError(f"{error.name} is not installed: pip install 'ssmctx[examples]'") from None


def _parser(prog: str) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, epilog=EXAMPLES, formatter_class=formatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP, formatter_class=_Help)
        command.arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults that there are, and leaves the lines of examples as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        plain = action.default is None or action.default is False
        return action.help if plain else super()._get_help_string(action)


if __name__ == "__main__":
    sys.exit(main())
