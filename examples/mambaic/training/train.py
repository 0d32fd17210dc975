"""Training: Adam on lambda * distortion + rate, an auxiliary Adam for the quantiles of z."""

from __future__ import annotations

import os
import signal
import time

from mambaic.checkpoint import beside, read_checkpoint, read_training, save_checkpoint, save_training, training_path
from mambaic.errors import Stopped
from mambaic.training.data import TrainingCrops, batches
from mambaic.training.engine import Engine, Point
from mambaic.training.log import Log
from mambaic.training.memory import keep_freed_memory
from mambaic.training.plan import TrainingPlan
from mambaic.training.run import Run
from mambaic.training.schedule import rate_factor
from mambaic.training.stop import StopRequest

__all__ = ["Point", "TrainingPlan", "train"]


def train(plan: TrainingPlan) -> list[Point]:
    """Train a model and leave a checkpoint at `plan.out`, with `.train.pt` to go on from and a `.csv` log beside it.

    Ends after `plan.steps` steps (by default `plan.epochs` passes over the data) or `plan.minutes`, whichever is first.

    Returns:
        What every step measured, those before a resume included and those skipped left out.

    Raises:
        ArgumentError: the plan cannot be trained, here or at all.
        DataError: no usable images.
        CheckpointError: the checkpoint to go on or to start from is damaged, or of another preset or variant.
        TrainingError: too many batches were not finite; the last checkpoint stays as it was.
        Stopped: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    plan.check()
    engine = Engine(plan)
    if engine.accelerator.device.type == "cpu":
        keep_freed_memory()
    workers = _workers(plan, engine)
    crops = TrainingCrops(plan.data, max(plan.crops), plan.seed, (plan.cache_mb << 20) // max(1, workers))
    run = Run(plan.steps or max(1, plan.epochs * len(crops) // plan.batch_size), plan.minutes)
    if plan.resume and training_path(plan.out).is_file():
        state = read_training(training_path(plan.out), engine.model)
        engine.load(state["engine"])
        run.load(state["run"])
    elif plan.start is not None:
        engine.start(read_checkpoint(plan.start))
    plan.out.parent.mkdir(parents=True, exist_ok=True)
    logdir = plan.logdir and plan.logdir / beside(plan.out, "").name
    with (
        StopRequest() as stop,
        Log(run, beside(plan.out, ".csv"), logdir, not engine.accelerator.is_main_process) as log,
    ):
        _introduce(log, plan, engine, crops)
        stopped = _loop(plan, engine, run, crops, workers, log, stop)
        _save(plan, engine, run)
        engine.accelerator.wait_for_everyone()
    if stopped:
        number = stop.signal or signal.SIGTERM  # another process may have been the one that was asked
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after step {run.step} of {run.total}; "
            f"{plan.out} is complete, continue with --resume",
            number,
        )
    return run.points


def _loop(
    plan: TrainingPlan, engine: Engine, run: Run, crops: TrainingCrops, workers: int, log: Log, stop: StopRequest
) -> bool:
    """Run to the end; returns whether it was stopped before."""
    clock = time.monotonic
    began, saved, reported = clock() - run.seconds, clock(), set()
    size, loader = 0, iter(())
    while run.progress < 1:
        if size != (size := _crop(plan, run)):
            loader = batches(crops.resized(size), run.step, run.total, plan.batch_size, engine.part, workers)
        asked = clock()
        batch = next(loader)
        waited = clock() - asked
        for line in batch.broken:
            if line not in reported:
                log.say(f"left out: {line}")
                reported.add(line)
        factor = rate_factor(plan.schedule, run.step, run.progress, plan.warmup, plan.milestones)
        measured = engine.step(batch.crops, run.step, factor, lambda: [clock() - began, float(stop.signal != 0)])
        run.add(measured)
        run.seconds, stopping = measured.said
        log.step(measured, plan.lr * factor, waited)
        run.check(plan, measured)
        if stopping:
            return run.progress < 1
        if clock() > saved + 60 * plan.checkpoint_minutes:
            _save(plan, engine, run)
            log.images(measured.images)
            saved = clock()
    return False


def _crop(plan: TrainingPlan, run: Run) -> int:
    """Side of the crops of the next step."""
    return plan.crops[-1 if run.progress >= 1 - plan.last_part else 0]


def _save(plan: TrainingPlan, engine: Engine, run: Run) -> None:
    if engine.accelerator.is_main_process:
        save_training(training_path(plan.out), engine.model, {"engine": engine.state(), "run": run.state()})
        fields = ["metric", "batch_size", "crop", "last_crop", "optimiser", "lr", "schedule", "ema", "seed"]
        made = {name: getattr(plan, name) for name in fields}
        if engine.model.qualities is None:
            made["lmbda"] = plan.lmbda
        else:
            made["lmbda_range"] = list(plan.lmbdas)
        save_checkpoint(plan.out, engine.export(), {**made, "steps": run.step, "skipped": len(run.skipped)})


def _introduce(log: Log, plan: TrainingPlan, engine: Engine, crops: TrainingCrops) -> None:
    for line in crops.broken:
        log.say(f"left out: {line}")
    accelerator = engine.accelerator
    small = f" ({crops.skipped} smaller than {crops.size}x{crops.size} left out)" if crops.skipped else ""
    lmbdas = f"{plan.lmbda:g}" if engine.model.qualities is None else "{:g} to {:g}".format(*plan.lmbdas)
    many = f" with {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    precision = "" if accelerator.mixed_precision == "no" else f" in {accelerator.mixed_precision}"
    begins = f", resuming after step {log.run.step}" if log.run.step else ""
    log.say(
        f"{len(crops)} images{small}, {plan.preset} {plan.variant}, lambda {lmbdas} ({plan.metric}), "
        f"on {accelerator.device}{many}{precision}{begins}"
    )


def _workers(plan: TrainingPlan, engine: Engine) -> int:
    """Processes that load ahead: none where the CPU trains, which loses nothing by reading a few cached images."""
    if plan.workers is not None:
        return plan.workers
    on_cpu = engine.accelerator.device.type == "cpu"
    return 0 if on_cpu else min(8, (os.cpu_count() or 1) // engine.accelerator.num_processes)
