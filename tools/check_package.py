"""Build wheel and sdist, and try the wheel in an environment that has it and its dependencies, but no checkout.

    python tools/check_package.py

The environment borrows the dependencies of the one that runs this, so that nothing is downloaded. It fails unless the
wheel holds the package and its example alone, the sdist what its tests need, installing it leaves torch as it is, a
smoke test passes, and a strict type checker sees the types.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IN_SDIST = (
    "conftest.py",
    "mkdocs.yml",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    "LICENSE",
    "benchmarks/results/coder.json",
    "docs/index.md",
    "examples/mambaic_full.py",
    "ssmctx/py.typed",
    "tests/conftest.py",
    "tests/public_api.txt",
    "tools/reference.py",
)


def run(*command: object, **options: object) -> None:
    """A command that must succeed."""
    print("$", " ".join(map(str, command)), flush=True)
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


def build(into: Path) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", into, ROOT, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = into.glob("ssmctx-*.whl"), into.glob("ssmctx-*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """The wheel holds the package and the example and nothing else, the sdist everything that its tests need."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    foreign = {name for name in names if not name.startswith(("ssmctx/", "ssmctx-", "mambaic/"))}
    if foreign or "ssmctx/py.typed" not in names:
        raise SystemExit(f"the wheel must hold ssmctx, mambaic and py.typed, nothing else; it has {sorted(foreign)}")
    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in IN_SDIST if name not in members]
    if missing:
        raise SystemExit(f"the sdist lacks {missing}: see [tool.hatch.build.targets.sdist] in pyproject.toml")


def environment(folder: Path) -> Path:
    """An environment with the packages of this one, less the checkout; returns its interpreter."""
    venv.create(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([str(python), "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    # a path that is added by sys.path.append comes last, and .pth files in it, such as the checkout's, are not read
    borrowed = sysconfig.get_path("purelib")
    (Path(own) / "borrowed.pth").write_text(f"import sys; sys.path.append({borrowed!r})\n")
    return python


def check_torch_stays(python: Path, wheel: Path, scratch: Path) -> None:
    """pip, asked to install the wheel where torch is, would leave torch alone."""
    report = scratch / "report.json"
    options = ["--quiet", "--no-index", "--dry-run", "--ignore-requires-python", "--report", report]
    run(python, "-m", "pip", "install", *options, wheel, cwd=scratch)
    changed = [item["metadata"]["name"] for item in json.loads(report.read_text())["install"]]
    if set(changed) - {"ssmctx"}:
        raise SystemExit(f"installing ssmctx would also install {changed}, though all it needs is there")


def main() -> None:
    """Build and try."""
    dist = ROOT / "dist"
    for old in dist.glob("ssmctx-*"):
        old.unlink()
    wheel, sdist = build(dist)
    check_contents(wheel, sdist)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        python = environment(scratch / "environment")
        check_torch_stays(python, wheel, scratch)
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel, cwd=scratch)
        run(python, ROOT / "tests" / "installed" / "smoke.py", cwd=scratch)
        typed = ROOT / "tests" / "installed" / "typed.py"
        options = ["--strict", "--config-file", os.devnull, "--python-executable", python]
        run(sys.executable, "-m", "mypy", *options, typed, cwd=scratch)
    print(f"{wheel.name} and {sdist.name} are in {dist}")


if __name__ == "__main__":
    main()
