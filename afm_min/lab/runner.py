"""Run stages of the table in stages.py: each is skipped if it is up to date, else run, and reported
in report.json.

Stages that do not need each other's results can run side by side, in processes that share the
cores.
"""
import concurrent.futures
import contextlib
import ctypes
import gc
import multiprocessing
import time
from concurrent.futures.process import BrokenProcessPool

import torch

from afm_min import distributed, trainer
from afm_min.lab.stages import (STAGES, fingerprint, format_value, is_up_to_date, needs_of,
                                up_to_date)
from afm_min.run import UserError

# With both threads it ends sooner than side by side with `prune`, which is short.
ALONE = ["teacher"]


def describe(values):
    """{"steps": 20, "lr": 0.01, "rows": [1, 2]} -> 'steps=20 lr=0.01'. Tables are left out."""
    return " ".join(f"{name}={format_value(value)}" for name, value in values.items()
                    if not isinstance(value, list))


def return_memory():
    """Return free memory to the system. glibc would keep it, and it adds up over the stages."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def forget(run, stage):
    """Drop a stage's row before its files are rewritten, so that a row always matches its files."""
    with run.locked():
        report = run.read_json("report.json")
        report.pop(stage, None)
        run.write_json("report.json", report)  # even if unchanged: every rank must call this


def run_stage(run, stage, settings):
    """Run a stage and report it, unless it is up to date. Its needs must be up to date."""
    rows = up_to_date(run.read_json("report.json"))
    if is_up_to_date(rows, stage, settings):
        print(f"{stage}: up to date: {describe(rows[stage]['metrics'])}")
        return
    run.settings, run.fingerprint = settings, fingerprint(rows, stage, settings)
    forget(run, stage)
    print(f"{stage}: {describe(settings)}", flush=True)
    start = time.perf_counter()
    metrics = STAGES[stage].function(run, **settings)
    return_memory()
    seconds = round(time.perf_counter() - start, 1)
    row = {"settings": settings, "fingerprint": run.fingerprint, "seconds": seconds,
           "metrics": metrics}
    with run.locked():
        run.write_json("report.json", run.read_json("report.json") | {stage: row})
    run.partial_checkpoint(stage).unlink(missing_ok=True)
    run.remove_shards(stage)
    for path in run.path.glob(f"{stage}-*.pt"):  # candidates that the stage chose from
        path.unlink(missing_ok=True)
    print(f"{stage}: {seconds} s: {describe(metrics)}", flush=True)


def independent_groups(settings):
    """Split stages, {stage: its settings}, into groups that do not need each other, in order.

    "reward1", "rs1", "dpo1", "committee1" -> [["reward1"], ["rs1", "dpo1"], ["committee1"]]"""
    groups = []
    for stage in settings:
        needed = set(needs_of(stage, settings[stage])) & set(groups[-1] if groups else ())
        if groups and not needed and stage not in ALONE:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return groups


def run_stages(run, settings, jobs=1):
    """Run stages in order. settings: {stage: its settings}. With jobs > 1, stages that do not need
    each other run side by side, in up to that many processes."""
    for group in independent_groups(settings):
        rows = up_to_date(run.read_json("report.json"))
        pending = [stage for stage in group if not is_up_to_date(rows, stage, settings[stage])]
        side_by_side = pending if jobs > 1 and len(pending) > 1 else []
        for stage in group:
            if stage not in side_by_side:  # an up-to-date stage only reports that it is
                run_stage(run, stage, settings[stage])
        if side_by_side:
            run_side_by_side(run, {stage: settings[stage] for stage in side_by_side}, jobs)


def run_side_by_side(run, settings, jobs):
    """Run stages that do not need each other in several processes, which share the cores.

    With matrices as small as the toy's, two threads are less than twice as fast as one, so two
    single-threaded stages side by side end sooner than one after the other. If one of them fails,
    the others are ended; --resume continues them."""
    context = multiprocessing.get_context("spawn")  # with "fork" PyTorch's threads may hang
    threads = max(1, torch.get_num_threads() // jobs)
    with concurrent.futures.ProcessPoolExecutor(jobs, context, start_worker, [threads]) as pool:
        try:
            futures = [pool.submit(run_stage, run, *item) for item in settings.items()]
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BrokenProcessPool:
            raise UserError(f"a process running {', '.join(settings)} was killed, perhaps for lack "
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
    trainer.Progress.plain = True
