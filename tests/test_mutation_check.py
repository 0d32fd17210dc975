"""The mutation check names files and tests that exist."""

import ast
import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def plan() -> dict[str, tuple[str, ...]]:
    spec = importlib.util.spec_from_file_location("mutation_check", ROOT / "benchmarks" / "mutation_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TESTS


def test_its_files_and_tests_exist():
    for file, tests in plan().items():
        assert (ROOT / "ssmctx" / file).is_file(), file
        for test in tests:
            name, _, function = test.partition("::")
            tree = ast.parse((ROOT / "tests" / name).read_text())
            functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert not function or function.partition("[")[0] in functions, test


def test_the_page_names_files_that_are_checked():
    page = (ROOT / "docs" / "explanation" / "mutation-check.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        names = [name.strip("` ") for name in row.split(",")]
        folder = names[0].rpartition("/")[0]
        assert {name if "/" in name else f"{folder}/{name}" for name in names} <= plan().keys(), row
