"""The installed package: metadata, extras, and a folder that nobody may write to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ssmctx

ROOT = Path(__file__).parents[1]
PACKAGE = Path(ssmctx.__file__).parent

# root writes where it likes until it gives that up; then run the rest of the arguments
GIVE_UP = """
import ctypes, os, sys
if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).prctl(24, 1, 0, 0, 0):  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
    sys.exit("prctl refuses")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

CODE = """
import json
import numpy as np
import ssmctx
from ssmctx.entropy.rans import kernels
from ssmctx.entropy.rans import RansCoder
from ssmctx.distributions.tables import CodingTables
tables = CodingTables.from_lists([[0, 16384, 49152, 65535, 65536]], [5], [-1])
symbols, indexes = np.array([0, 1, -1, 300], np.int16), np.zeros(4, np.uint8)
encoder = RansCoder().encoder()
encoder.encode(symbols, indexes, tables)
encoder.finish()
print(json.dumps([ssmctx.__file__, sum(kernels.encode.stats.cache_hits.values())]))
"""


@pytest.fixture
def read_only(tmp_path):
    """A copy of the package, without caches, that cannot be written to; afterwards it can be removed again."""
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site / "ssmctx", ignore=shutil.ignore_patterns("__pycache__"))
    folders = [site, *(path for path in site.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield site
    for folder in folders:
        folder.chmod(0o755)


def run_from(site: Path, home: Path, **more: str) -> tuple[str, int]:
    """File of the package that was used, and how many kernels came from a cache."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA", "PYTHON", "XDG"))}
    environment = {**kept, "PYTHONPATH": str(site), "HOME": str(home), **more}
    run = [sys.executable, "-c", GIVE_UP, "-W", "ignore", "-c", CODE]
    out = subprocess.run(run, env=environment, cwd=site, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    sys.stderr.write(out.stderr)
    file, hits = re.findall(r'\["(.+)", (\d+)\]', out.stdout)[0]
    return file, int(hits)


@pytest.mark.skipif(sys.platform != "linux", reason="gives up root's rights by a call of Linux")
def test_kernels_of_a_read_only_install_are_cached_in_the_users_folder(read_only, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    file, hits = run_from(read_only, home)
    assert file == str(read_only / "ssmctx" / "__init__.py")
    assert hits == 0
    assert not list(read_only.rglob("*.nbi"))
    assert list(home.rglob("*.nbi"))
    assert run_from(read_only, home)[1] > 0  # compiled once, not in every process


@pytest.mark.skipif(sys.platform != "linux", reason="gives up root's rights by a call of Linux")
def test_the_cache_goes_where_numba_is_told(read_only, tmp_path):
    cache = tmp_path / "cache"
    run_from(read_only, tmp_path / "no-home", NUMBA_CACHE_DIR=str(cache))
    assert list(cache.rglob("*.nbi"))


@pytest.mark.skipif(sys.platform != "linux", reason="gives up root's rights by a call of Linux")
def test_kernels_work_where_nothing_can_be_written(read_only, capfd):
    assert run_from(read_only, Path("/proc/none"))[1] == 0
    assert capfd.readouterr().err.count("set NUMBA_CACHE_DIR") == 1  # and not once for each kernel


PARTS = """
from ssmctx import jit
import part
from part import NUMBER

@jit.kernel(inlined=[part])
def kept():
    return NUMBER

print(kept(), sum(kept.stats.cache_hits.values()))
"""


def test_a_kernel_is_compiled_again_when_another_file_that_it_is_made_of_changes(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # Python looks at the second in which a file was changed
    (tmp_path / "whole.py").write_text(PARTS)

    def run() -> str:
        done = subprocess.run([sys.executable, tmp_path / "whole.py"], env=environment, capture_output=True, check=True)
        return done.stdout.decode().strip()

    (tmp_path / "part.py").write_text("NUMBER = 1")
    assert [run(), run()] == ["1 0", "1 1"]
    (tmp_path / "part.py").write_text("NUMBER = 2")
    assert [run(), run()] == ["2 0", "2 1"]


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def configuration() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_metadata_is_complete():
    project = configuration()["project"]
    assert {"Homepage", "Documentation", "Repository", "Issues", "Changelog"} <= set(project["urls"])
    classifiers = set(project["classifiers"])
    assert "Typing :: Typed" in classifiers
    versions = {f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)}
    assert versions <= classifiers
    assert project["requires-python"] == ">=3.10,<3.14"


def test_compressai_is_an_extra_that_the_tests_have():
    project = configuration()["project"]
    names = {re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]}
    assert names == {"torch", "einops", "numpy", "numba", "typing-extensions"}
    extras = project["optional-dependencies"]
    assert extras["compressai"] == ["compressai>=1.2.6"]
    assert "ssmctx[compressai]" in extras["test"]
    assert any("test" in line for line in extras["dev"])


def test_torch_is_asked_for_by_a_lower_bound_only():
    """So that pip finds the torch that is there good enough, and leaves it."""
    (torch,) = [line for line in configuration()["project"]["dependencies"] if line.startswith("torch")]
    assert re.fullmatch(r"torch>=\d+\.\d+", torch)


def test_one_version_is_said_everywhere():
    version = configuration()["project"]["version"]
    assert ssmctx.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## \[?{re.escape(version)}", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)


def test_what_git_holds_is_in_the_sdist():
    if not (ROOT / ".git").exists():
        pytest.skip("needs the git checkout, to know its files")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    always = {"pyproject.toml", "README.md", "LICENSE", ".gitignore"}
    included = configuration()["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    left_out = [name for name in listed if name not in always and not any(f"/{name}".startswith(i) for i in included)]
    assert not left_out, f"add {left_out} to [tool.hatch.build.targets.sdist] in pyproject.toml"


def test_continuous_integration_elsewhere_runs_the_same_targets():
    ours = re.findall(r"^make (\S+)", (ROOT / ".ci" / "run").read_text(), flags=re.M)
    theirs = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "bash .ci/run" in theirs
    assert {"lint", "docs-build", "package", "demo-short", "test"} == set(ours)
