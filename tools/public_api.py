"""The public names of the package and their signatures, frozen in a list.

    python tools/public_api.py            # print what the package has now
    python tools/public_api.py --write    # change the list; refuses until CHANGELOG.md says something new

`tests/test_public_api.py` compares the package with the list.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "public_api.txt"
CHANGELOG = ROOT / "CHANGELOG.md"

MODULES = {
    "ssmctx": "Main API",
    "ssmctx.layers": "Layers",
    "ssmctx.layers.foundation": "Layers: foundation blocks",
    "ssmctx.layers.transforms": "Layers: transforms",
    "ssmctx.context": "Contexts",
    "ssmctx.scan": "Scan",
    "ssmctx.distributions": "Distributions",
    "ssmctx.distributions.tables": "Coding tables",
    "ssmctx.distributions.exact": "Exact arithmetic",
    "ssmctx.entropy": "Entropy models",
    "ssmctx.entropy.coders": "Coders",
    "ssmctx.entropy.rans": "rANS",
    "ssmctx.codec": "Codec",
    "ssmctx.compat.compressai": "CompressAI",
    "ssmctx.compat.released": "Released checkpoint",
    "ssmctx.files": "Writing files",
    "ssmctx.stages": "Stages",
    "ssmctx.registry": "Registries",
    "ssmctx.errors": "Errors",
    "ssmctx.testing": "Testing",
    "ssmctx.testing.strategies": "Testing: strategies",
    "ssmctx.testing.suite": "Testing: suite",
}
"""Modules whose `__all__` is public, with their titles in the reference; names elsewhere may change at any time."""


def names(module: str) -> list[str]:
    """Public names of a module, without `__version__`, which changes with every release."""
    return [name for name in sorted(importlib.import_module(module).__all__) if name != "__version__"]


def lines() -> list[str]:
    """A line for each public name, and one for each public method of a class."""
    found = []
    for module in MODULES:
        for name in names(module):
            found += described(f"{module}.{name}", getattr(importlib.import_module(module), name))
    return found


def described(path: str, thing: object) -> list[str]:
    """What `thing` takes; for a class also what its own public methods take."""
    if not inspect.isclass(thing):
        return [path + parameters(thing) if inspect.isroutine(thing) or inspect.ismodule(thing) else path]
    made_by_us = not issubclass(thing, Exception) and not getattr(thing, "_is_protocol", False)
    found = [f"{path}{parameters(thing) if made_by_us else ''}"]
    for name, member in sorted(vars(thing).items()):
        if name.startswith("_"):
            continue
        if isinstance(member, property | cached_property):
            found.append(f"{path}.{name}")
        elif inspect.isroutine(member):
            found.append(f"{path}.{name}{parameters(getattr(thing, name))}")
    return found


def parameters(thing: object) -> str:
    """Names and defaults; types are mypy's business."""
    if inspect.ismodule(thing):  # ssmctx.profile is both a module and the function in it
        thing = getattr(thing, thing.__name__.rpartition(".")[2])
    signature = inspect.signature(thing)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


def changelog_hash() -> str:
    """Says whether CHANGELOG.md is still as it was when the list was written."""
    return hashlib.sha256(CHANGELOG.read_bytes()).hexdigest()[:16]


def main() -> None:
    """Print the list, or write it."""
    now = lines()
    if "--write" not in sys.argv:
        print("\n".join(now))
        return
    if LIST.exists():
        mark, *before = LIST.read_text().splitlines()
        if now == before:
            raise SystemExit("the list has not changed: nothing to write")
        if mark.endswith(changelog_hash()):
            raise SystemExit("say in CHANGELOG.md what changes for users (breaking, if it breaks their code) first")
    LIST.write_text("\n".join([f"# CHANGELOG.md when this list changed last: {changelog_hash()}", *now]) + "\n")


if __name__ == "__main__":
    main()
