"""The reference pages: one for each public name, and their part of mkdocs.yml.

    python tools/reference.py    # rewrites docs/reference and the navigation

`tests/test_docs.py` compares them with the package.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import griffe
from public_api import MODULES, ROOT, names

from ssmctx.registry import Registry

CONFIGURATION = ROOT / "mkdocs.yml"
FOLDER = Path("docs/reference")
MAIN_API = (ROOT / "ssmctx" / "__init__.py").read_text()
OPENING = """\
# Reference

Every public name, by the module to import it from. Names that are not here may change at any time.
"""
BEGIN, END = "  # reference: begin, written by tools/reference.py\n", "  # reference: end\n"


def public() -> dict[str, list[str]]:
    """Public names by module, each where it is found first."""
    seen: set[tuple[str, int]] = set()
    found: dict[str, list[str]] = {}
    for module in MODULES:
        things = {name: (name, id(getattr(importlib.import_module(module), name))) for name in names(module)}
        fresh = [name for name, thing in things.items() if thing not in seen]
        seen.update(things.values())
        if fresh:
            found[module] = fresh
    return found


def pages() -> dict[Path, str]:
    """Content of every reference page, by its path in the project."""
    package = griffe.load("ssmctx", search_paths=[str(ROOT)], resolve_aliases=True)
    index, made = [OPENING], {}
    for module, members in public().items():
        index += [f"\n## {MODULES[module]}\n", f"`{module}`\n", "| name | what it is |", "|---|---|"]
        for name in members:
            made[FOLDER / module / f"{name}.md"] = f"::: {target(module, name)}\n" + registered(package, module, name)
            index.append(f"| [`{name}`]({module}/{name}.md) | {summary(package, target(module, name))} |")
    made[FOLDER / "index.md"] = "\n".join(index) + "\n"
    return made


def target(module: str, name: str) -> str:
    """Path of a name for the documentation; `ssmctx.profile` is also a module, whose function is meant."""
    path = f"{module}.{name}"
    return f"{path}.{name}" if path == "ssmctx.profile" else path


def registered(package: griffe.Object, module: str, name: str) -> str:
    """For a registry, the table of what this package puts there."""
    registry = getattr(importlib.import_module(module), name)
    if not isinstance(registry, Registry):
        return ""
    rows = ["\n| name | what it is | path |", "|---|---|---|"]
    for key, made_by in re.findall(rf'^_registry\.{name}\.register\("(.+)", "(.+)"\)$', MAIN_API, flags=re.M):
        path = made_by.replace(":", ".")
        rows.append(f"| `{key}` | {summary(package, path)} | `{path}` |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else ""  # what entry points put there, this file does not see


def summary(package: griffe.Object, path: str) -> str:
    """The first sentence of a docstring."""
    thing = package[path.partition(".")[2]]
    if thing.docstring is None:
        raise SystemExit(f"{path} has no docstring")
    first = " ".join(thing.docstring.value.partition("\n\n")[0].split())
    return re.split(r"(?<=\w\w)\. ", first)[0].rstrip(".").replace("|", r"\|") + "."


def configuration() -> str:
    """mkdocs.yml with the navigation of the reference."""
    before, _, rest = CONFIGURATION.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    lines = ["  - Reference:", "      - reference/index.md"]
    for module, members in public().items():
        lines.append(f"      - {MODULES[module] if ':' not in MODULES[module] else repr(MODULES[module])}:")
        lines += [f"          - {name}: reference/{module}/{name}.md" for name in members]
    return before + BEGIN + "\n".join(lines) + "\n" + END + after


def main() -> None:
    """Write everything; pages of names that are gone are removed."""
    made = pages()
    for path in (ROOT / FOLDER).rglob("*.md"):
        if path.relative_to(ROOT) not in made:
            path.unlink()
    for path, text in made.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
    CONFIGURATION.write_text(configuration())


if __name__ == "__main__":
    main()
