"""benchmarks/gpu.py: every part runs, on the CPU at tiny sizes; a part that fails, hangs or dies costs no other."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from on_gpu import knobs
from on_gpu.device import in_processes
from on_gpu.launches import launches
from on_gpu.parts import Clock, Part, each, run_parts
from on_gpu.plan import DRY
from on_gpu.report import rendered, troubles

from ssmctx.scan.triton import launch
from ssmctx.stages import stage

ROOT = Path(__file__).resolve().parents[1]


def run(parts, seconds=60.0):
    kept = []
    report = run_parts(parts, time.monotonic() + seconds, lambda report: kept.append(json.dumps(report)))
    assert json.loads(kept[-1]) == report
    return report


def fine(save, clock):
    save("figure", clock.left() > 0)


def fails(save, clock):
    save("before", 1)
    raise RuntimeError("the first line\nthe second")


def dies(save, clock):
    save("before", 1)
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(save, clock):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    save("child", child.pid)
    child.wait()


def test_a_part_that_fails_or_dies_keeps_what_it_saved_and_the_next_one_runs():
    report = run([Part("a", 1, fails), Part("b", 1, dies), Part("c", 1, fine)])
    assert [part["state"] for part in report.values()] == ["failed", "failed", "done"]
    assert report["a"]["reason"] == "RuntimeError: the first line"
    assert report["b"]["reason"] == "its process ended with exit code -9"
    assert report["a"]["results"] == report["b"]["results"] == {"before": 1}
    assert report["c"]["results"] == {"figure": True}


def test_a_part_that_hangs_is_ended_with_all_that_it_started():
    report = run([Part("hangs", 1, hangs), Part("fine", 2, fine)], seconds=12.0)
    assert [part["state"] for part in report.values()] == ["out of time", "done"]
    child = report["hangs"]["results"]["child"]
    path = Path(f"/proc/{child}/stat")
    assert not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z"


def test_items_that_fail_are_passed_over_and_none_begins_when_time_is_up():
    saved = {}
    items = [("a", lambda: 1), ("b", lambda: [][1]), ("c", lambda: sys.exit("not timed")), ("d", lambda: 2)]
    each(items, saved.__setitem__, Clock(time.monotonic() + 60))
    assert saved == {
        "a": 1,
        "b": {"not_timed": "IndexError: list index out of range"},
        "c": {"not_timed": "SystemExit: not timed"},
        "d": 2,
    }
    each(items[:1], saved.__setitem__, Clock(time.monotonic() - 1))
    assert saved["a"] == {"not_timed": "no time was left"}


def test_processes_side_by_side_give_their_exit_codes():
    runs = [lambda: None, lambda: sys.exit(3), lambda: time.sleep(600)]
    assert in_processes(runs[:2], 2, Clock(time.monotonic() + 60)) == {0: 0, 1: 3}
    assert in_processes(runs[2:], 1, Clock(time.monotonic() + 0.2)) == {0: None}
    assert in_processes(runs, 1, Clock(time.monotonic() - 1)) == {0: None, 1: None, 2: None}


def test_a_process_takes_one_run_after_the_other_and_another_goes_on_where_it_dies():
    saw = multiprocessing.get_context("fork").Array("i", 5)

    def see(i):
        saw[i] = os.getpid()

    def die():
        see(2)
        os.kill(os.getpid(), signal.SIGKILL)

    runs = [partial(see, 0), partial(see, 1), die, partial(see, 3), lambda: see(4) or sys.exit(0)]
    assert in_processes(runs, 1, Clock(time.monotonic() + 60)) == {0: 0, 1: 0, 2: -9, 3: 0, 4: 0}
    first, second, third, fourth, fifth = saw
    assert first == second == third != fourth == fifth


def test_constants_are_put_back():
    before = launch._GROUP, launch._BACKWARD_TILE

    def fail():
        assert (launch._GROUP, launch._BACKWARD_TILE) == (2, 256)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), knobs.constants({"_GROUP": 2, "_BACKWARD_TILE": 256}):
        fail()
    assert (launch._GROUP, launch._BACKWARD_TILE) == before != (2, 256)


def searched(monkeypatch, seconds, run):
    """The search among three changes, with these times instead of measured ones."""
    changes = ({"_GROUP": 2}, {"_BACKWARD_REGISTERS": 200}, {"_BACKWARD_REGISTERS": 255})
    monkeypatch.setattr(knobs, "event_seconds", lambda runs, *_: {name: seconds(name) for name in runs})
    return knobs.compared(run, changes, DRY)


def test_what_wins_alone_is_tried_together(monkeypatch):
    def seconds(name):
        return 1.0 - 0.1 * ("_GROUP" in name) - 0.2 * ("200" in name) - 0.15 * ("255" in name)

    found = searched(monkeypatch, seconds, lambda: [torch.ones(3)])
    assert found["set"] == {"_GROUP": 2, "_BACKWARD_REGISTERS": 200}


def test_what_gains_nothing_or_gives_other_results_is_not_to_be_set(monkeypatch):
    assert searched(monkeypatch, lambda name: 1.0 - 0.01 * ("200" in name), lambda: [torch.ones(3)])["set"] == {}
    found = searched(monkeypatch, lambda name: 1.0 - 0.1 * ("_GROUP" in name), lambda: [torch.ones(3) * launch._GROUP])
    assert found["set"] == {}
    assert found["not_timed_of"] == {"_GROUP = 2": "other results: relative error 5.0e-01"}


def test_launches_are_counted_by_stage():
    def work():
        x = torch.ones(4)  # outside any stage
        with stage("context", 3):
            (x + x).sum().item()
        with stage("guard"), stage("transfer"):
            x.nonzero()

    counted = launches(work, "cpu")
    stages = counted.pop("stages")
    assert stages["step 3"] == {"operators": 3, "reads": 1}  # add, sum, item
    assert stages["transfer"] == {"operators": 1, "reads": 1}
    assert stages["rest"] == {"operators": 1}
    assert counted == {"operators": 5, "reads": 2, "busy_us": 0, "busiest": {}}


def test_the_tables_and_the_troubles_that_are_told():
    scan = {"forward_s": 2e-3, "bytes_per_s": 1e12, "steps_per_s": 4e11}
    sizes = {"triton": scan, "torch": {"not_timed": "no memory"}, "peer": {"left_out": "not here"}}
    results = {"copy_bytes_per_s": 2e12, "512 x 8 x 8": sizes}
    parts = {"scan": {"state": "out of time", "reason": "its share ended", "results": results}}
    text = rendered({"parts": parts, "machine": {}, "dry_run": False})
    assert "| 512 x 8 x 8, triton | 2.000 | 1000 | 50 % | 400 |  |  |" in text
    assert troubles(parts) == ["scan: out of time; its share ended", "scan, 512 x 8 x 8, torch: no memory"]
    assert "Not timed: peer: not here." in text
    assert all(trouble in text for trouble in troubles(parts))
    del results["copy_bytes_per_s"]
    text = rendered({"parts": parts, "machine": {}, "dry_run": False})
    assert text.startswith("### Scan\n\nCannot be shown: KeyError('copy_bytes_per_s').\n")


def test_every_part_runs(tmp_path):
    pytest.importorskip("triton", reason="needs triton, whose interpreter runs the kernels")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--minutes", "60"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert {part["state"] for part in report["parts"].values()} == {"done"}
    results = {name: part["results"] for name, part in report["parts"].items()}
    assert results["tests"]["counts"]["passed"] > 0
    assert results["compilation"]["failed"] == []
    assert results["scan"]["3 x 1 x 2"]["triton"]["difference"] < 1e-4
    assert not any(result["not_timed_of"] for result in results["constants"].values())
    assert results["codec"]["launches"]["decode"]["stages"]["step 0"]["operators"] > 0
    assert results["across"]["tiny"]["CPU -> GPU"]["symbols_exact"] == 1
    assert (tmp_path / results["training"]["checkpoint"]).is_file()
    text = (tmp_path / "gpu.md").read_text()
    for name in ("Walk", "Scan", "Constants", "Blocks", "Codec", "Across", "Training step", "Training"):
        assert f"### {name}\n\n" in text
