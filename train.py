"""Train AFM from raw text: run the stages in order, each with its settings, in one run directory.

    python train.py --out runs/toy                      all stages, toy size
    python train.py --out runs/mine --data my/texts     on your own UTF-8 text
    python train.py --out runs/toy --resume             continue after Ctrl-C or a kill
    python train.py --out runs/toy --again core --set core.steps=2000     run one stage anew
    python train.py --out runs/wide --set model.dim=192 --until lengthening
    python train.py --list core                         explain a stage and its settings
    python train.py --list model                        explain the settings of the model's shape
    torchrun --standalone --nproc-per-node 2 train.py --out runs/toy      two processes
"""
import dataclasses
import functools
import math
import signal
import sys

if __name__ == "__main__":  # the imports take seconds: until they end, Ctrl-C prints no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from afm_min.lab.packages import check_packages
    check_packages()

from afm_min import distributed
from afm_min.data import corpus
from afm_min.lab.packages import python_command
from afm_min.lab.report import environment, write_report
from afm_min.lab.settings import PRESET_SETTINGS
from afm_min.lab.runner import expected_seconds, forget, run_stages
from afm_min.lab.stages import (STAGES, explain, lost_files, parse_setting, reasons_to_run,
                                settings_of, up_to_date, with_needs)
from afm_min.model import PRESETS, Config
from afm_min.progress import show
from afm_min.run import Parser, Run, UserError, choose_device, run_command
from afm_min.tokenizer import check_vocab_size


def model_settings(preset):
    """Return {field: value} of a preset's model. Raises UserError if there is no such preset."""
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    return dataclasses.asdict(PRESETS[preset])


def open_run(arguments):
    """Open a new or existing run directory, without writing to it.

    Returns the run, and what to write to its run.json: {"preset": "toy", "seed": 0, "model.dim":
    112, ..., "set": {"core.steps": 2000}}.
    An option that is not given is that of the existing run, else the default."""
    run = Run(arguments.out, choose_device(arguments.device))
    if not str(arguments.out) or run.path.is_file():
        raise UserError(f"--out {str(arguments.out)!r}: expected a folder, new or of a run")
    distributed.join(run.device)
    run.shard = arguments.shard
    if run.shard and distributed.world_size() == 1:
        raise UserError("--shard divides a model among processes: start several with torchrun")
    # Read the run.json if the run has saved results, or if the user wants to continue it.
    started = run.read_json("report.json") or any(run.path.glob("*.part.pt"))
    continues = arguments.resume or arguments.again
    previous = run.read_json("run.json") if started or continues else {}
    preset = arguments.preset or previous.get("preset", "toy")
    model = model_settings(preset)
    settings = previous.get("set", PRESET_SETTINGS.get(preset, {}))
    settings = settings | dict(parse_setting(text, model) for text in arguments.set)
    if arguments.data is not None:
        settings["data.folder"] = arguments.data
    if previous and not continues:
        raise UserError(f"{run.path} has a run: add --resume, or choose another --out")
    run.config = Config(**{field: settings.get(f"model.{field}", value)
                           for field, value in model.items()})
    check_vocab_size(run.config.vocab_size)
    run.seed = previous.get("seed", 0) if arguments.seed is None else arguments.seed
    identity = {"preset": preset, "seed": run.seed}
    identity |= {f"model.{field}": getattr(run.config, field) for field in model}
    for name, value in identity.items():  # unlike the settings, these cannot change in a run
        if previous and previous[name] != value:
            raise UserError(f"{run.path} was begun with {name} {previous[name]}, not {value}: "
                            "choose another --out")
    return run, identity | {"set": settings}


def train(arguments):
    """Run stages, or only describe them (--list, --dry-run). --list needs no run."""
    if arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs}: give 1 or more")
    for name in arguments.again + arguments.until + arguments.list:
        if name not in STAGES and not (name == "model" and name in arguments.list):
            raise UserError(f"there is no stage {name}: choose from {', '.join(STAGES)}")
    if arguments.list:
        print_settings(arguments.list, arguments.preset or "toy")
        return
    run, contents = open_run(arguments)
    settings = with_needs(arguments.again + arguments.until, contents["set"])
    if "evaluation" in settings:
        check_opponent(**settings["evaluation"])
    if arguments.dry_run:
        print_plan(run, settings, arguments.again, contents["set"])
        return
    run.create()
    try:
        with run.reserved():
            train_stages(run, contents, settings, arguments)
    except KeyboardInterrupt:
        print(f"\nstopped: {resume_command(run, arguments.until)} continues", file=sys.stderr)
        sys.exit(130)


def resume_command(run, until=()):
    """Return the command that continues a run: "python train.py --out runs/toy --resume"."""
    command = f"{python_command()} train.py --out {run.path} --resume"
    return f"{command} --until {','.join(until)}" if until else command


def print_settings(names, preset):
    """Explain stages, or the shape of the model if the name is "model", with a preset's values."""
    model = model_settings(preset)
    for name in names:
        settings = model if name == "model" else settings_of(name, PRESET_SETTINGS.get(preset))
        print(explain(name, settings, whole=len(names) == 1))


def check_opponent(opponent, aligned, **_):
    """Raise UserError if the run that evaluation compares with lacks a model that it needs."""
    stages = ("lengthening", "sft", aligned)
    if opponent and not all(Run(opponent).checkpoint(stage).exists() for stage in stages):
        raise UserError(f"evaluation.opponent={opponent}: there is no finished run in this folder")


def print_plan(run, settings, again, values):
    """Print which stages would run and why, an estimate of their time, and which finished stages
    they would outdate. settings: {stage: its settings}; values: see `settings_of`."""
    report = run.read_json("report.json")
    lost = lost_files(run, report)
    report = {stage: row for stage, row in report.items() if stage not in (*again, *lost)}
    reasons = reasons_to_run(report, settings)
    if not reasons:
        print(f"all {len(settings)} stages are up to date")
        return
    if "data" in reasons and settings["data"]["folder"]:
        # Read the folder only to raise the UserError that the stage would.
        corpus.collect(settings["data"]["folder"], common=1)
    for stage, reason in reasons.items():
        if stage in again:
            reason = "--again"
        elif stage in lost:
            reason = f"{lost[stage]} is missing"
        show(f"{stage}: {reason}")
    show(f"{len(reasons)} of {len(settings)} stages would run, "
         + estimate(run, report, {stage: settings[stage] for stage in reasons}))
    kept = {stage: row for stage, row in report.items() if stage not in reasons}
    outdated = [stage for stage in reasons_to_run(kept, with_needs([], values)) if stage in kept]
    if outdated:
        show(f"out of date then, unless results stay the same: {', '.join(outdated)}; "
             f"{resume_command(run)} trains them again")


def estimate(run, report, settings):
    """Return the expected time of stages, {stage: its settings}, in words.

    If the model is not the toy, the times of data and tokenizer are ignored: they hardly depend on
    the model, so they are no measure of its speed."""
    is_toy = run.config == PRESETS["toy"]
    done = {stage: row for stage, row in report.items()
            if is_toy or stage not in ("data", "tokenizer")}
    if not done and not is_toy:
        return "but their times are known for the preset toy only"
    minutes = math.ceil(expected_seconds(done, settings) / 60)
    return f"in about {minutes} min {'at the speed of those done' if done else 'on two CPU cores'}"


def train_stages(run, contents, settings, arguments):
    """Run stages, {stage: its settings}, of a reserved run, and write its report."""
    run.write_json("run.json", contents)
    lost = lost_files(run, run.read_json("report.json"))
    for stage, file in lost.items():
        show(f"{stage} is out of date: {file} is missing")
    for stage in (*arguments.again, *lost):
        forget(run, stage)
        run.partial_checkpoint(stage).unlink(missing_ok=True)
    before = run.read_json("report.json")
    jobs = arguments.jobs if distributed.world_size() == 1 and run.device.type == "cpu" else 1
    run_stages(run, settings, jobs)
    report = up_to_date(run.read_json("report.json"))  # drop rows whose inputs or code changed
    run.write_json("report.json", report)
    if report != before:  # if no stage ran, keep the description of the machine that ran them
        run.write_json("environment.json", environment(run))
    write_report(run)
    missing = list(reasons_to_run(report, with_needs([], contents["set"])))
    if outdated := [stage for stage in missing if stage in before]:
        print(f"\nOut of date now: {', '.join(outdated)}. --resume trains them again.")
    print_outcome(run, report, missing)


def print_outcome(run, report, missing):
    """Print what share of the test tasks each model solves, and two commands to try next.

    missing: the stages of a whole run that have no result yet."""
    metrics = report["evaluation"]["metrics"] if "evaluation" in report else {}
    solved = [f"{name.removesuffix(' mean %')} {value:.0f} %" for name, value in metrics.items()
              if name.endswith(" mean %")]
    print(f"\nTest tasks solved: {', '.join(solved) or 'not evaluated yet'}. Next:")
    if "draft" in report:
        print(f"    {python_command()} sample.py --run {run.path}")
    elif "core" in report:
        print(f'    {python_command()} sample.py --run {run.path} --prompt "The value of"')
    if missing:
        print(f"    {resume_command(run)}")
    else:
        print(f"    {python_command()} train.py --list")


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # raises KeyboardInterrupt
    parser = Parser(__doc__)
    add = parser.add_argument
    names = functools.partial(str.split, sep=",")  # "core,sft" -> ["core", "sft"]
    add("--out", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--preset", metavar="NAME", help=f"size: {', '.join(PRESETS)} (default: toy)")
    add("--data", metavar="DIR", help="folder of UTF-8 text (default: built-in sources)")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="change a setting")
    add("--seed", metavar="N", type=int, help="seed of all randomness (default: 0)")
    add("--resume", action="store_true", help="continue a run: skip stages that are up to date")
    add("--until", metavar="STAGES", type=names, default=[],
        help="run only these stages, such as mdloo1,rs1, and what they need (default: run all)")
    add("--again", metavar="STAGES", type=names, default=[],
        help="run these stages again, even if they are up to date, and what they need")
    add("--dry-run", action="store_true",
        help="only print which stages would run, why, and about how long")
    add("--list", metavar="STAGES", type=names, nargs="?", const=["model", *STAGES], default=[],
        help="only explain stages, or model, and their settings (default: all)")
    add("--jobs", metavar="N", type=int, default=min(2, distributed.cores()),
        help="stages to run side by side, on a CPU, where possible (default: %(default)s)")
    add("--shard", action="store_true", help="with torchrun: divide models among the processes")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the best available)")
    run_command(train, parser.parse_args())


if __name__ == "__main__":
    main()
