"""Run the stages of stages.py, except those that are up to date, and record each in report.json.

Stages that do not need each other's results can run side by side, in processes that share the
cores.
"""
import concurrent.futures
import contextlib
import ctypes
import gc
import multiprocessing
import signal
import statistics
import time
from concurrent.futures.process import BrokenProcessPool

import torch

from afm_min import distributed, progress
from afm_min.lab.stages import (STAGES, fingerprint, format_value, needs_of, reasons_to_run,
                                settings_of, summary)
from afm_min.run import UserError

# Stages that wait for all stages before them. `prune` is short, so the teacher ends sooner if it
# waits and then has all threads than side by side with `prune`.
ALONE = ["teacher"]

# A stage's time is about proportional to the first of these settings that it has.
AMOUNTS = ["steps", "iterations", "prompts", "count", "math", "share"]


def default_speed_seconds(stage, settings):
    """Return a stage's seconds at the speed of a default run: twice as many for twice the steps."""
    defaults = settings_of(stage)
    for name in AMOUNTS:
        if name in defaults:
            return STAGES[stage].seconds * settings.get(name, defaults[name]) / defaults[name]
    return STAGES[stage].seconds


def expected_seconds(report, all_settings):
    """Estimate the seconds of stages: their time at the speed of a default run, times the median
    slowdown of the stages in the report. This is 2.0 if those took twice as long."""
    expected = {stage: default_speed_seconds(stage, report[stage]["settings"])
                for stage in STAGES if stage in report}
    slowdowns = [report[stage]["seconds"] / seconds for stage, seconds in expected.items()
                 if seconds]
    return statistics.median(slowdowns or [1.0]) * sum(
        default_speed_seconds(stage, settings) for stage, settings in all_settings.items())


def return_memory():
    """Return free memory to the system. glibc would keep it, and it adds up over the stages."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def forget(run, stage):
    """Drop a stage's row before its files are rewritten, so that a row always matches its files."""
    with run.locked():
        report = run.read_json("report.json")
        report.pop(stage, None)
        run.write_json("report.json", report)  # even if unchanged: every rank must call this


def run_stage(run, stage, settings, all_settings=None):
    """Run a stage and write its row, unless it is up to date. Its needs must be up to date.

    all_settings: {stage: its settings} of all stages to run; progress lines count them."""
    all_settings = all_settings or {stage: settings}
    number = list(all_settings).index(stage) + 1  # from 1
    report = run.read_json("report.json")
    reasons = reasons_to_run(report, all_settings)
    later = {name: all_settings[name] for name in list(all_settings)[number:] if name in reasons}
    progress.place = f"[{number}/{len(all_settings)}] "
    progress.rest = expected_seconds(report, later)
    if stage not in reasons:
        progress.show(f"{progress.place}{stage} is up to date: {summary(stage, report)}")
        return
    progress.show(f"{progress.place}{stage} ...", stays=False)
    run.settings = settings
    run.fingerprint = fingerprint(report, stage, settings)
    forget(run, stage)
    start = time.perf_counter()
    metrics = STAGES[stage].function(run, **settings)
    return_memory()
    seconds = round(time.perf_counter() - start, 1)
    files = {path.name for path in run.path.glob(f"{stage}.*")} - {f"{stage}.part.pt"}
    row = {"settings": settings, "fingerprint": run.fingerprint, "seconds": seconds,
           "metrics": metrics, "files": sorted(files)}
    with run.locked():  # stages that run side by side may have added rows: read it again
        report = run.read_json("report.json") | {stage: row}
        run.write_json("report.json", report)
    run.partial_checkpoint(stage).unlink(missing_ok=True)
    run.remove_shards(stage)
    for path in run.path.glob(f"{stage}-*.pt"):  # checkpoints that the stage chose the best from
        path.unlink(missing_ok=True)
    progress.show(f"{progress.place}{stage} {format_value(seconds)} s: {summary(stage, report)}")


def independent_groups(settings):
    """Split stages, {stage: its settings}, into groups, in order. None needs another of its group.

    "reward1", "rs1", "dpo1", "committee1" -> [["reward1"], ["rs1", "dpo1"], ["committee1"]]"""
    groups = []
    for stage in settings:
        needs = needs_of(stage, settings[stage])
        if not groups or stage in ALONE or any(need in groups[-1] for need in needs):
            groups.append([stage])
        else:
            groups[-1].append(stage)
    return groups


def run_stages(run, settings, jobs=1):
    """Run stages in order. settings: {stage: its settings}. With jobs > 1, stages that do not need
    each other run side by side, in up to that many processes."""
    for group in independent_groups(settings):
        reasons = reasons_to_run(run.read_json("report.json"), settings)
        pending = [stage for stage in group if stage in reasons]
        side_by_side = pending if jobs > 1 and len(pending) > 1 else []
        for stage in group:
            if stage not in side_by_side:  # it runs alone, or prints that it is up to date
                run_stage(run, stage, settings[stage], settings)
        if side_by_side:
            run_side_by_side(run, side_by_side, settings, jobs)


def run_side_by_side(run, stages, settings, jobs):
    """Run stages that do not need each other in several processes, which share the cores.

    With matrices as small as the toy's, two threads are less than twice as fast as one. So two
    stages end sooner side by side, with a thread each, than one after the other. If one fails, the
    others are stopped; --resume continues them."""
    context = multiprocessing.get_context("spawn")  # with "fork" PyTorch's threads may hang
    threads = max(1, torch.get_num_threads() // jobs)
    with concurrent.futures.ProcessPoolExecutor(jobs, context, start_worker, [threads]) as pool:
        try:
            # Only this process handles Ctrl-C: the others inherit that the signal is blocked.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            futures = [pool.submit(run_stage, run, stage, settings[stage], settings)
                       for stage in stages]
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            for future in concurrent.futures.as_completed(futures):
                future.result()  # raises the error of a stage that failed
        except BrokenProcessPool:
            raise UserError(f"a process running {', '.join(stages)} was killed, perhaps for lack "
                            "of memory: try --resume --jobs 1") from None
        except BaseException:  # a stage failed, or Ctrl-C: do not wait for the other stages
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def start_worker(threads):
    """Prepare a process of `run_side_by_side`: limit its threads, and print progress as plain
    lines, since processes that redraw one line would overwrite each other."""
    distributed.end_with_parent()
    torch.set_num_threads(threads)
    progress.plain = True
