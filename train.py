"""Train AFM from raw text: run the stages in order, each with its settings, in one run directory.

    python train.py --out runs/toy                                 all stages, toy size
    python train.py --out runs/mine --data my/texts                on your own UTF-8 text
    python train.py --out runs/toy --resume                        continue after a kill
    python train.py --out runs/wide --set model.dim=192 --set core.steps=2000
    torchrun --standalone --nproc-per-node 2 train.py --out runs/toy     two processes
"""
import argparse
import dataclasses

from afm_min import distributed
from afm_min.lab.report import environment, write_report
from afm_min.lab.settings import PRESET_SETTINGS
from afm_min.lab.runner import forget, run_stages
from afm_min.lab.stages import STAGES, parse_setting, settings_of, up_to_date, with_needs
from afm_min.model import PRESETS, Config
from afm_min.run import Run, UserError, choose_device, run_command
from afm_min.tokenizer import check_vocab_size


def open_run(arguments):
    """Open a new or existing run directory, without writing to it.

    Returns the run, and the contents to write to its run.json: preset, seed, model, and settings.
    Options that are not given are those of an existing run's run.json."""
    run = Run(arguments.out, choose_device(arguments.device))
    distributed.join(run.device)
    run.shard = arguments.shard
    if run.shard and distributed.world_size() == 1:
        raise UserError("--shard divides a model among processes: start several with torchrun")
    # A run that has saved nothing may be started again with other arguments: ignore its run.json.
    started = run.read_json("report.json") or any(run.path.glob("*.part.pt"))
    previous = run.read_json("run.json") if started or arguments.resume else {}
    preset = arguments.preset or previous.get("preset", "toy")
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    model = dataclasses.asdict(PRESETS[preset])
    settings = previous.get("set", PRESET_SETTINGS.get(preset, {}))
    settings = settings | dict(parse_setting(text, model) for text in arguments.set)
    if previous and not arguments.resume and not arguments.stages:
        raise UserError(f"{run.path} has a run: add --resume, or choose another --out")
    if arguments.data is not None:
        settings["data.folder"] = arguments.data
    run.config = Config(**{field: settings.get(f"model.{field}", value)
                           for field, value in model.items()})
    check_vocab_size(run.config.vocab_size)
    run.seed = previous.get("seed", 0) if arguments.seed is None else arguments.seed
    identity = {"preset": preset, "seed": run.seed}
    identity |= {f"model.{field}": getattr(run.config, field) for field in model}
    for name, value in identity.items():  # unlike "set", these cannot change in an existing run
        if previous and previous[name] != value:
            raise UserError(f"{run.path} was begun with {name} {previous[name]}, not {value}")
    return run, identity | {"set": settings}


def train(arguments):
    """Run the stages that --stages names, after the stages that they need, in a run that no other
    process changes meanwhile."""
    if arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs}: give 1 or more")
    for name in arguments.stages:
        if name not in STAGES:
            raise UserError(f"--stages {name}: choose from {', '.join(STAGES)}")
    run, contents = open_run(arguments)
    run.create()
    with run.reserved():
        train_stages(run, contents, arguments)


def train_stages(run, contents, arguments):
    """Run the stages of an open run, and write its report."""
    run.write_json("run.json", contents)
    if not arguments.resume:  # run the stages even if they are up to date
        for stage in arguments.stages:
            forget(run, stage)
            run.partial_checkpoint(stage).unlink(missing_ok=True)
    before = run.read_json("report.json")
    jobs = arguments.jobs if distributed.world_size() == 1 and run.device.type == "cpu" else 1
    default = STAGES if settings_of("evaluation", contents["set"])["packed"] else ["evaluation"]
    stages = with_needs(arguments.stages or default, contents["set"])
    run_stages(run, {stage: settings_of(stage, contents["set"]) for stage in stages}, jobs)
    report = up_to_date(run.read_json("report.json"))  # without stages whose inputs have changed
    run.write_json("report.json", report)
    if report != before:  # if no stage ran, keep the description of the machine that ran them
        run.write_json("environment.json", environment(run))
    write_report(run)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--preset", metavar="NAME", help=f"size: {', '.join(PRESETS)} (default: toy)")
    add("--data", metavar="DIR", help="folder of UTF-8 text (default: text in CPython's library)")
    add("--stages", metavar="NAME,NAME", type=lambda names: names.split(","), default=[],
        help=f"run these stages again, and any they need (default: {','.join(STAGES)})")
    add("--set", metavar="NAME=VALUE", action="append", default=[],
        help="change a setting, model.FIELD or STAGE.NAME; --set help lists them all")
    add("--seed", metavar="N", type=int, help="seed of all randomness (default: 0)")
    add("--resume", action="store_true", help="continue a run: skip stages that are up to date")
    add("--jobs", metavar="N", type=int, default=min(2, distributed.cores()),
        help="stages to run side by side, on a CPU, where possible (default: %(default)s)")
    add("--shard", action="store_true", help="with torchrun: shard models over the processes")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the best available)")
    run_command(train, parser.parse_args())


if __name__ == "__main__":
    main()
