"""The shape of the package and of the example: what imports what, and what `import ssmctx` loads."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import mambaic
import pytest

import ssmctx

PACKAGE = Path(ssmctx.__file__).parent
EXAMPLE = Path(mambaic.__file__).parent
ORDER = [
    *["errors", "registry", "memory", "jit", "files", "constants", "lookalike", "stages"],
    *["scan", "layers", "distributions", "context", "entropy", "codec", "compat", "profile", "testing", "__main__"],
]
EXAMPLE_ORDER = [
    *["errors", "transforms", "codec", "checkpoint", "bundled", "images", "evaluation", "figures", "training"],
    *["demo", "commands", "__main__"],
]


def layer_of(module: str) -> int:
    package, name = module.split(".")[:2]
    return {"ssmctx": ORDER, "mambaic": EXAMPLE_ORDER}[package].index(name)


def imports(path: Path) -> list[str]:
    """Modules of ssmctx and of the example that a file imports, wherever in the file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: say the whole name of what is imported"
            if node.module == "ssmctx":  # a module, or a name of the main API
                found += [ssmctx._HOMES.get(alias.name, f"ssmctx.{alias.name}") for alias in node.names]
            else:
                found.append(node.module)
    return [name for name in found if name.split(".")[0] in ("ssmctx", "mambaic")]


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
EXAMPLE_FILES = sorted(p for p in EXAMPLE.rglob("*.py") if p != EXAMPLE / "__init__.py")


def module_of(path: Path, package: Path) -> str:
    return ".".join([package.name, *path.relative_to(package).with_suffix("").parts])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_imports_from_a_higher_layer(path):
    own = layer_of(module_of(path, PACKAGE))
    above = [name for name in imports(path) if name.split(".")[0] == "mambaic" or layer_of(name) > own]
    assert not above, f"{path} imports {above} from a higher layer; the order is {ORDER}"


@pytest.mark.parametrize("path", EXAMPLE_FILES, ids=lambda p: str(p.relative_to(EXAMPLE)))
def test_no_file_of_the_example_imports_from_a_higher_layer(path):
    own = layer_of(module_of(path, EXAMPLE))
    above = [name for name in imports(path) if name.split(".")[0] == "mambaic" and layer_of(name) > own]
    assert not above, f"{path} imports {above} from a higher layer; the order is {EXAMPLE_ORDER}"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f():\n    from ssmctx.entropy.model import X\n", ["ssmctx.entropy.model"]),
        ("from ssmctx import registry, testing\n", ["ssmctx.registry", "ssmctx.testing"]),
        ("from ssmctx import VSSBlock\n", ["ssmctx.layers"]),
        ("import os, ssmctx.profile\n", ["ssmctx.profile"]),
        ("from mambaic.codec import MambaIC\n", ["mambaic.codec"]),
    ],
)
def test_the_import_check_sees(tmp_path, code, found):
    file = tmp_path / "x.py"
    file.write_text(code)
    assert imports(file) == found


@pytest.mark.parametrize("path", [*FILES, *EXAMPLE_FILES], ids=lambda p: str(p.relative_to(p.parents[2])))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400


@functools.cache
def loaded_after(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in out.stdout.splitlines()[-1].split()}


SLOW = {"compressai", "numba", "llvmlite", "triton", "mamba_ssm", "scipy", "torchvision", "matplotlib", "hypothesis"}


def test_import_ssmctx_loads_torch_and_itself():
    """No clock: what is not loaded takes no time. The time itself is measured by benchmarks/import_time.py."""
    ours = loaded_after("import torch, ssmctx") - loaded_after("import torch")
    standard = set(sys.stdlib_module_names)
    assert ours - standard == {"ssmctx"}


def test_what_needs_no_codec_loads_nothing_slow():
    code = """
from ssmctx import VSSBlock, WindowLocalAttention, ChannelSpatialContext, CodingOrder, ContextModel, registry
import ssmctx.scan, ssmctx.errors, ssmctx.entropy.rans, ssmctx.distributions.tables
registry.contexts.get("uneven"), registry.blocks.get("transformer")
"""
    assert not (loaded_after(code) - loaded_after("import torch")) & SLOW


def test_every_module_is_in_the_import_order():
    tops = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert tops == set(ORDER)


NOT_EVERYWHERE = ("scan.triton.kernels",)
"""Modules that need what is not installed everywhere."""


def test_every_module_can_be_the_first_to_be_imported():
    """A circle of imports shows only when one enters it at the wrong place."""
    modules = [module_of(path, PACKAGE) for path in FILES]
    modules = [name.removesuffix(".__init__") for name in modules if not name.endswith(NOT_EVERYWHERE)]
    # one interpreter that forgets ssmctx between imports: a fresh one for each would load torch eighty times
    code = f"""
import importlib, sys
loads = {{}}
for name in {sorted(modules)!r}:
    parent = name.rpartition(".")[0]
    if name in loads.get(parent, ()):  # its import begins with its parent's, which imports it
        loads[name] = loads[parent]
        continue
    for loaded in [m for m in sys.modules if m == "ssmctx" or m.startswith("ssmctx.")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except ImportError as error:
        sys.exit(f"import {{name}} first: {{error}}")
    loads[name] = {{m for m in sys.modules if m.startswith("ssmctx.")}}
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_main_api_is_explicit():
    assert sorted(dir(ssmctx)) == sorted(ssmctx.__all__)
    assert all(getattr(ssmctx, name) is not None for name in ssmctx.__all__)
    with pytest.raises(AttributeError, match=r"has no attribute 'VSSBlok'; it has .*VSSBlock"):
        _ = ssmctx.VSSBlok
