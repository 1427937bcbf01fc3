"""Run arms of experiments: a stage with settings, and before it the stages that it needs.

Every stage of an arm is trained once, in a folder of its own such as seed0/core-1a2b3c4d, with hard
links to the results that it builds on. Its name contains a hash of its settings and code and of
those of the stages before it. So several arms share a stage, and no result is out of date. After a
kill, only the stage in progress continues. The metrics of a seed's arms are in seed0.json.

The name does not depend on the machine. So train all arms of a seed on one machine: results in
float32 and in bfloat16 differ a little.
"""
import concurrent.futures
import contextlib
import dataclasses
import datetime
import hashlib
import json
import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool

from afm_min.lab.report import environment
from afm_min.lab.runner import run_stage, start_worker
from afm_min.lab.source import source_hash
from afm_min.lab.stages import function_of, needs_of, with_needs
from afm_min.run import Run, UserError


def arm_names(config, stage, values):
    """Return {stage: (name of its arm, settings)} of a stage and of all that it needs, in order.

    values: {"stage.setting": value}, as in `settings_of`. The name "core-1a2b3c4d" contains a hash
    of the model's size, and of the settings and code of the stage and of all that it needs.
    values["core.draw"] is special: it is no setting, but changes the random numbers of core."""
    arms = {}
    for each, settings in with_needs([stage], values).items():
        needs = [arms[need][0] for need in needs_of(each, settings)]
        content = [dataclasses.asdict(config), settings, values.get(f"{each}.draw"), needs,
                   source_hash(function_of(each).__module__)]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
        arms[each] = f"{each}-{digest}", settings
    return arms


# Files that each run writes itself. All others are linked from the runs it builds on.
OWN_FILES = ("metrics.jsonl", "report.*", "*.part.pt", ".*lock", "*.tmp")


def run_arm(path, config, seed, stage, values):
    """Run the stages of an arm that are not finished yet. Returns the last one's metrics."""
    arms = arm_names(config, stage, values)
    for each, (name, settings) in arms.items():
        run = Run(path / f"seed{seed}" / name)
        run.config, run.seed = config, seed + 1000 * values.get(f"{each}.draw", 0)
        rows = run.read_json("report.json")
        if each in rows:
            continue
        run.create()
        for source in (Run(run.path.parent / arms[need][0]) for need in needs_of(each, settings)):
            rows |= source.read_json("report.json")
            for file in source.path.iterdir():
                if not any(map(file.match, OWN_FILES)) and not run.file(file.name).exists():
                    os.link(file, run.file(file.name))
        run.write_json("report.json", rows)
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            run_stage(run, each, settings)
        print(f"seed {seed}: {name} {run.read_json('report.json')[each]['seconds']} s", flush=True)
    return run.read_json("report.json")[stage]["metrics"]


def machine():
    """Return a line about the processor and the software, such as "processor with AVX2, computes in
    float32, torch 2.13.0, Python 3.11.2"."""
    entries = environment(Run("."))  # of this run, only the device is used
    return (f"processor with {entries['processor has']}, computes in {entries['computes in']}, "
            f"torch {entries['torch']}, Python {entries['Python']}")


def run_seed(base, config, seed, arms):
    """Run the arms without results in the seed's file. Returns the errors of those that failed."""
    results, errors = base.read_json(f"seed{seed}.json"), []
    for name, stage, values in arms:
        if name not in results:
            try:
                metrics = run_arm(base.path, config, seed, stage, values)
            except UserError as error:
                errors.append(f"seed {seed}, {name}: {error}")
                continue
            numbers = {key: x for key, x in metrics.items() if isinstance(x, (int, float))}
            results[name] = numbers | {"machine": machine(), "date": str(datetime.date.today())}
            base.write_json(f"seed{seed}.json", results)
    return errors


def run_seeds(base, config, seeds, arms, jobs):
    """Run seeds side by side, in `jobs` processes of one thread each. Returns the errors of arms
    that failed."""
    errors, context = [], multiprocessing.get_context("spawn")  # "fork" may hang PyTorch's threads
    with concurrent.futures.ProcessPoolExecutor(jobs, context, start_worker, [1]) as pool:
        try:
            # Ctrl-C is for this process alone. The others start with the signal blocked, like here.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            futures = [pool.submit(run_seed, base, config, seed, arms) for seed in seeds]
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            for future in concurrent.futures.as_completed(futures):
                errors += future.result()
        except BrokenProcessPool:
            raise UserError("a process was killed, perhaps for lack of memory: call again with "
                            f"fewer --jobs than {jobs}") from None
        except BaseException:  # an error, or Ctrl-C: do not wait for the other seeds
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return errors
