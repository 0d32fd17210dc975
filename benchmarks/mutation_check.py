"""Mutation check of the coding core: how many small faults does the suite notice?

    pip install cosmic-ray==8.7.0
    python benchmarks/mutation_check.py mutants.jsonl --most 20     # from the root of the project; --most 0 for all

Cosmic Ray makes the mutants. Its own runner would start a Python with torch for each of them; here a process that has
the slow imports behind it forks a child for each, which reads the mutated source instead of the file and runs the
tests of that file until the first failure. A child has a limit of processor time, so that an endless loop is noticed
and a machine that is busy with other things is not. Outcomes are appended to the file named, one a line; what stands
there already is not run again. For maintainers; takes from half an hour to many hours, and is no part of CI.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.machinery
import json
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = (
    "test_order.py",
    "test_causality.py",
    "test_variants.py::test_slices_may_differ",
    "test_kit_registry.py::test_registered_components_keep_the_laws[context-channel-spatial-round-trip]",
)
TESTS: dict[str, tuple[str, ...]] = {
    "context/order.py": CONTEXT,
    "context/base.py": CONTEXT[1:],
    "context/channel_spatial.py": CONTEXT[1:],
    "entropy/steps.py": ("test_round_trip.py", "test_released_context.py"),
    "entropy/streams.py": ("test_round_trip.py", "test_guard.py", "test_exact_files.py"),
    "entropy/scale_network/integer_conv.py": ("test_scale_network.py",),
    "entropy/scale_network/network.py": ("test_scale_network.py", "test_exact_files.py"),
    "entropy/scale_network/steps.py": ("test_scale_network.py", "test_exact_files.py"),
    "entropy/guard.py": ("test_guard.py::test_golden_bytes", "test_guard.py", "test_bitstream.py"),
    "entropy/bitstream/checksums.py": ("test_bitstream.py", "test_guard.py", "test_round_trip.py"),
    "entropy/factorized_prior/prior.py": ("test_factorized_prior.py",),
    "entropy/factorized_prior/tables.py": ("test_factorized_tables.py",),
    "distributions/scales.py": ("test_distributions.py", "test_guard.py"),
    "distributions/base.py": ("test_distributions.py", "test_rate.py"),
    "distributions/build.py": ("test_distributions.py",),
    "entropy/rans/coder.py": ("test_rans.py",),
    "entropy/rans/kernels.py": ("test_rans.py",),
    "distributions/tables.py": ("test_rans.py", "test_distributions.py", "test_state_dict.py"),
    "entropy/bitstream/rice.py": ("test_guard.py::test_golden_bytes", "test_guard.py"),
    "entropy/bitstream/varint.py": ("test_bitstream.py", "test_guard.py"),
    "entropy/bitstream/coded_image.py": ("test_bitstream.py", "test_fuzz.py"),
    "codec/fingerprint.py": ("test_state_dict.py", "test_image_codec.py"),
}
"""The quick tests that concern each file of the coding core, those most likely to notice first."""

SECONDS, TIMES = 15, 4
"""A child may take so many seconds of processor time beyond so many times what its tests take unharmed."""


class Mutant(NamedTuple):
    """One changed place of a file.

    Attributes:
        file: below `ssmctx/`.
        name: operator and occurrence.
        diff: the changed lines.
        source: of the whole file.
    """

    file: str
    name: str
    diff: str
    source: str


def places(source: str) -> list[tuple[str, int]]:
    """Every (operator, occurrence) of Cosmic Ray in a source; those that only change an annotation are among them."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    nodes, found = list(ast_nodes(get_ast(source))), []
    for name in sorted(operator_names()):
        if name.startswith("core/") and "NoOp" not in name and "Decorator" not in name and "Variable" not in name:
            operator = get_operator(name)()
            count = sum(1 for node in nodes for _ in operator.mutation_positions(node))
            found += [(name, occurrence) for occurrence in range(count)]
    return found


def mutants(file: str, most: int) -> tuple[list[Mutant], int]:
    """Mutants of a file, spread evenly over its places, the same ones each time; and the number of places.

    Those that change nothing that runs, such as the `|` of an annotation, are passed over for the next place.
    """
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (ROOT / "ssmctx" / file).read_text()
    found = places(source)
    seen, made = {_behaviour(source)}, []
    starts = range(len(found)) if not most else [i * len(found) // most for i in range(most)]
    for start, end in zip(starts, [*starts[1:], len(found)], strict=True):
        for name, occurrence in found[start:end]:
            changed = mutate_code(source, get_operator(name)(), occurrence)
            what = _behaviour(changed)
            if what and what not in seen:
                seen.add(what)
                lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
                diff = "\n".join(line for line in lines if not line.startswith(("---", "+++")))
                made.append(Mutant(file, f"{name.removeprefix('core/')} {occurrence}", diff, changed))
                break
    return made, len(found)


def _behaviour(source: str) -> str:
    """The source without its annotations; empty where it is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def run_tests(file: str, source: str | None, seconds: float) -> tuple[str, float]:
    """Run the tests of a file in a child, with another source if given; the outcome and the processor time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if not child:
        os._exit(_tests_in_child(ROOT / "ssmctx" / file, TESTS[file], source, seconds))
    _, status = os.waitpid(child, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if os.WIFSIGNALED(status):
        timed_out = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        return ("killed, out of time" if timed_out else "killed, crash"), took
    code = os.WEXITSTATUS(status)
    if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"pytest found no tests: {TESTS[file]}")
    return ("survived" if code == 0 else "killed"), took


def _tests_in_child(path: Path, tests: tuple[str, ...], source: str | None, seconds: float) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    if source is not None:
        read = importlib.machinery.SourceFileLoader.get_code

        def get_code(self: Any, fullname: str) -> Any:
            same = Path(self.path).resolve() == path
            return compile(source, self.path, "exec", dont_inherit=True) if same else read(self, fullname)

        importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
        if "kernels" in path.name:  # compiled code is kept by a file's date, which a mutant does not change
            import numba

            numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="mutants-")
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-W", "ignore"]
    return int(pytest.main([*options, *(str(ROOT / "tests" / test) for test in tests)], plugins=[_Unshrunk()]))


class _Unshrunk:
    """For pytest: hypothesis as the tests set it, but a failure is not made smaller."""

    def pytest_collection(self) -> None:
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", settings.get_profile("default"), phases=phases)
        settings.load_profile("mutants")


def print_table(outcomes: list[dict[str, Any]], totals: dict[str, int]) -> None:
    """Killed and run per file, and every survivor."""
    print("| file | places | mutants run | killed | out of time |\n|---|---|---|---|---|")
    rows = [(file, Counter(o["outcome"] for o in outcomes if o["file"] == file)) for file in totals]
    rows.append(("all", Counter(o["outcome"] for o in outcomes if o["file"] in totals)))
    for file, counts in rows:
        ran, survived = sum(counts.values()), counts["survived"]
        of = totals.get(file, sum(totals.values()))
        share = f" ({(ran - survived) / ran:.0%})" if ran else ""
        print(f"| {file} | {of} | {ran} | {ran - survived}{share} | {counts['killed, out of time']} |")
    for outcome in outcomes:
        if outcome["outcome"] == "survived" and outcome["file"] in totals:
            print(f"\n{outcome['file']}: {outcome['name']}\n{outcome['diff']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outcomes", type=Path, help="file to append outcomes to, one JSON line each")
    parser.add_argument("--most", type=int, default=20, help="mutants per file, spread evenly; 0 for all (default 20)")
    parser.add_argument("--files", nargs="+", default=list(TESTS), choices=list(TESTS), help="only these")
    options = parser.parse_args()
    done: dict[tuple[str, str], dict[str, Any]] = {}
    if options.outcomes.exists():
        for line in options.outcomes.read_text().splitlines():
            outcome = json.loads(line)
            done[outcome["file"], outcome["diff"]] = outcome
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(ROOT), str(ROOT / "examples"), str(ROOT / "tests")]
    import compressai.latent_codecs  # noqa: F401  # slow; children of this process have it
    import numba  # noqa: F401
    import torch  # noqa: F401

    totals, reported = {}, []
    for file in options.files:
        chosen, totals[file] = mutants(file, options.most)
        if any((m.file, m.diff) not in done for m in chosen):
            outcome, unharmed = run_tests(file, None, 3600)
            if outcome != "survived":
                raise SystemExit(f"{file}: its tests fail without a mutant ({outcome}); run {TESTS[file]}")
        for mutant in chosen:
            if (mutant.file, mutant.diff) not in done:
                outcome, took = run_tests(file, mutant.source, SECONDS + TIMES * unharmed)
                record = {"outcome": outcome, "seconds": round(took, 1)}
                record |= {"file": file, "name": mutant.name, "diff": mutant.diff}
                done[mutant.file, mutant.diff] = record
                with options.outcomes.open("a") as lines:
                    lines.write(json.dumps(record) + "\n")
            reported.append(done[mutant.file, mutant.diff])
        sys.stdout.flush()
    print_table(reported, totals)


if __name__ == "__main__":
    main()
