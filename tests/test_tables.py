"""The tables of the docs: each machine is named, figures that cannot be repeated are refused, costs are `profile`'s."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from mambaic.codec import MambaIC

from ssmctx import profile

ROOT = Path(__file__).parents[1]
MACHINE = {"cpu": "A", "gpu": None, "threads": 2, "python": "3.11", "versions": {"torch": "2"}, "commit": "abc"}


@pytest.fixture
def tables():
    spec = importlib.util.spec_from_file_location("benchmark_tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_machine_is_named_with_its_figures(tables):
    reports = {"x": {"machine": MACHINE}, "y": {"machine": MACHINE | {"cpu": "B"}}, "z": {"machine": MACHINE}}
    expected = "Machine of x; z: A, 2 threads, Python 3.11, torch 2, commit abc.\n\nMachine of y: B, 2 threads,"
    assert expected in tables.where(reports)
    assert tables.where({"x": {"machine": MACHINE}}).startswith("\nMachine: A, 2 threads")


def test_figures_of_no_commit_are_refused(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "PAGES", ())
    monkeypatch.setattr(tables, "TABLES", {"a": ("one", None), "b": ("many", None)})
    dirty = MACHINE | {"commit": "abc-dirty"}
    (tmp_path / "one.json").write_text(json.dumps({"machine": MACHINE}))
    (tmp_path / "many.json").write_text(json.dumps({"x": {"machine": MACHINE}, "y": {"machine": dirty}}))
    with pytest.raises(SystemExit, match=r"measure again after a commit: many \(y: abc-dirty\)"):
        tables.main()
    (tmp_path / "many.json").write_text(json.dumps({"x": {"machine": MACHINE}}))
    tables.main()


def test_the_costs_in_the_ablation_s_table_are_those_of_profile():
    page = (ROOT / "docs" / "how-to" / "evaluate-and-compare.md").read_text()
    number = r" ([\d.]+) \|"
    rows = re.findall(rf"^\| (context-[\w-]+|mambaic) \|[^|]+\|[^|]+\|{3 * number}", page, flags=re.M)
    assert len(rows) == 4
    for variant, *shown in rows:
        *parts, whole = profile(MambaIC("tiny", variant), (256, 256))
        context = next(part for part in parts if part.name == "context")
        kmac = whole.multiply_adds / 256**2 / 1e3
        costs = [f"{whole.parameters / 1e6:.3f}", f"{context.parameters / 1e6:.3f}", f"{kmac:.2f}"]
        assert shown == costs
