"""Train AFM from raw text: the stages in order, each with its settings, into one run directory.

    python train.py --out runs/toy                                 all stages, toy size
    python train.py --out runs/mine --data my/texts                on your own UTF-8 text
    python train.py --out runs/toy --resume                        go on after a kill
    python train.py --out runs/wide --set model.dim=192 --set core.steps=2000
    torchrun --standalone --nproc-per-node 2 train.py --out runs/toy     two processes
"""
import argparse
import dataclasses

from afm_min import distributed
from afm_min.model import PRESETS, Config
from afm_min.lab.report import environment, write_report
from afm_min.run import Run, UserError, choose_device, run_command
from afm_min.lab.stages import (STAGES, forget, parse_setting, run_stages, settings_of, up_to_date,
                                with_needs)
from afm_min.tokenizer import check_vocab_size


def open_run(arguments):
    """Take up a run directory, or a new one; nothing is written yet. Returns the run, what
    identifies it (all its stages share it), and the settings given for it, now and earlier."""
    run = Run(arguments.out, choose_device(arguments.device))
    distributed.join(run.device)
    run.shard = arguments.shard
    if run.shard and distributed.world_size() == 1:
        raise UserError("--shard divides a model among processes: start several with torchrun")
    worked = run.read_json("report.json") or any(run.path.glob("*.part.pt"))
    begun = run.read_json("run.json") if worked or arguments.resume else {}
    preset = arguments.preset or begun.get("preset", "toy")
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    model = dataclasses.asdict(PRESETS[preset])
    given = begun.get("set", {}) | dict(parse_setting(text, model) for text in arguments.set)
    if begun and not arguments.resume and not arguments.stages:
        raise UserError(f"{run.path} holds a run: add --resume to go on with it, or choose another "
                        "--out")
    if arguments.data is not None:
        given["data.folder"] = arguments.data
    run.config = Config(**{name: given.get(f"model.{name}", x) for name, x in model.items()})
    check_vocab_size(run.config.vocab_size)
    run.seed = begun.get("seed", 0) if arguments.seed is None else arguments.seed
    identity = {"preset": preset, "seed": run.seed}
    identity |= {f"model.{name}": x for name, x in dataclasses.asdict(run.config).items()}
    for name, value in identity.items():
        if begun and begun[name] != value:
            raise UserError(f"{run.path} was begun with {name} {begun[name]}, not {value}: choose "
                            "another --out")
    return run, identity, given


def train(arguments):
    """Do the stages that are asked for, in order, and first what they need and is not done."""
    if arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs}: give 1 or more")
    for name in arguments.stages:
        if name not in STAGES:
            raise UserError(f"--stages {name}: choose from {', '.join(STAGES)}")
    run, identity, given = open_run(arguments)
    run.create()
    run.write_json("run.json", identity | {"set": given})
    if not arguments.resume:
        for stage in arguments.stages:
            forget(run, stage)
            run.partial_checkpoint(stage).unlink(missing_ok=True)
    before = run.read_json("report.json")
    alone = distributed.world_size() > 1 or run.device.type != "cpu"
    run_stages(run, {stage: settings_of(stage, given)
                        for stage in with_needs(arguments.stages or STAGES)},
                  1 if alone else arguments.jobs)
    run.write_json("report.json", up_to_date(run.read_json("report.json")))
    if run.read_json("report.json") != before:  # else it may have been made elsewhere
        run.write_json("environment.json", environment(run))
    write_report(run)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--preset", metavar="NAME", help=f"size: {', '.join(PRESETS)} (default: toy)")
    add("--data", metavar="DIR", help="train on this folder of UTF-8 files (default: on what "
        "CPython carries)")
    add("--stages", metavar="NAME,NAME", type=lambda names: names.split(","), default=[],
        help=f"run these anew, and what they need (default: {','.join(STAGES)})")
    add("--set", metavar="NAME=VALUE", action="append", default=[],
        help="change a setting, model.FIELD or STAGE.NAME; a wrong name lists them all")
    add("--seed", metavar="N", type=int, help="of all randomness (default: 0)")
    add("--resume", action="store_true", help="go on: skip what is done, but not what a changed "
        "setting touches")
    add("--jobs", metavar="N", type=int, default=min(2, distributed.cores()),
        help="on a CPU, run so many stages side by side where they do not need each other "
        "(default: %(default)s)")
    add("--shard", action="store_true", help="with torchrun: divide what training keeps of a model "
        "among the processes, for one that is too large for each")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the best there is)")
    run_command(train, parser.parse_args())


if __name__ == "__main__":
    main()
