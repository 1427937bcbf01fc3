"""Train AFM from raw text: the stages in order, each with its settings, into one run directory.

    python train.py --out runs/toy                                 all stages, toy size
    python train.py --out runs/mine --data my/texts                on your own UTF-8 text
    python train.py --out runs/toy --resume                        go on after a kill
    python train.py --out runs/wide --set model.dim=192 --set core.steps=2000
"""
import argparse
import ast
import dataclasses
import inspect
import time

from afm_min import pretrain
from afm_min.model import PRESETS
from afm_min.run import Run, UserError, choose_device, run_command

# Each stage is a function; its keyword arguments, with their defaults, are its settings.
STAGES = {"data": pretrain.data, "tokenizer": pretrain.tokenizer, "core": pretrain.core}


def settings_of(stage):
    """Setting -> default of one stage."""
    parameters = inspect.signature(STAGES[stage]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def parse_setting(text, preset):
    """'core.steps=20' -> ('core.steps', 20). It must be of the type of the default."""
    name, equals, value = text.partition("=")
    section, _, key = name.partition(".")
    known = {"model": dataclasses.asdict(PRESETS[preset])}
    known |= {stage: settings_of(stage) for stage in STAGES}
    if not equals or key not in known.get(section, {}):
        names = ", ".join(f"{section}.{key}" for section in known for key in known[section])
        raise UserError(f"--set {text}: it must be NAME=VALUE, with one of the names {names}")
    default = known[section][key]
    try:
        value = value if isinstance(default, str) else ast.literal_eval(value)
    except (ValueError, SyntaxError):
        pass
    value = float(value) if type(default) is float and type(value) is int else value
    if type(value) is not type(default):
        raise UserError(f"--set {text}: {name} takes a value like {default!r}")
    return name, value


def open_run(arguments):
    """Take up the run directory, or a new one. Returns the run, and stage -> settings of all that
    are to be run. Nothing is written before every argument has been found right."""
    run = Run(arguments.out, device=choose_device(arguments.device))
    begun = run.read_json("run.json")
    if begun and not arguments.resume and not arguments.stages:
        raise UserError(f"{run.path} holds a run: add --resume to go on with it, or choose another "
                        "--out")
    preset = arguments.preset or begun.get("preset", "toy")
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    given = begun.get("set", {}) | dict(parse_setting(text, preset) for text in arguments.set)
    if arguments.data is not None:
        given["data.folder"] = arguments.data
    fields = {name.removeprefix("model."): value for name, value in given.items()
              if name.startswith("model.")}
    run.config = dataclasses.replace(PRESETS[preset], **fields)
    run.seed = begun.get("seed", 0) if arguments.seed is None else arguments.seed
    now = {"preset": preset, "seed": run.seed, "model": dataclasses.asdict(run.config)}
    for name, value in now.items():
        if begun and begun[name] != value:
            raise UserError(f"{run.path} was begun with {name} {begun[name]}, not {value}: choose "
                            "another --out")
    settings = {}
    for stage in arguments.stages or STAGES:
        if stage not in STAGES:
            raise UserError(f"--stages {stage}: choose from {', '.join(STAGES)}")
        settings[stage] = {name: given.get(f"{stage}.{name}", default)
                           for name, default in settings_of(stage).items()}
        done = run.read_json("report.json").get(stage, {}).get("settings", settings[stage])
        if arguments.resume and done != settings[stage]:
            raise UserError(f"{stage} is done, with {describe(done)}: to redo it with others leave "
                            f"out --resume and add --stages {stage}, or choose another --out")
    run.create()
    run.write_json("run.json", now | {"set": given})
    return run, settings


def describe(values):
    """{"steps": 20, "lr": 0.01} -> 'steps=20 lr=0.01'"""
    return " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                    for name, value in values.items())


def train(arguments):
    """Run the stages in order. A row in report.json says that a stage is done."""
    run, settings = open_run(arguments)
    for stage, run.settings in settings.items():
        report = run.read_json("report.json")
        if stage in report and arguments.resume:
            print(f"{stage}: done before: {describe(report[stage]['metrics'])}")
            continue
        if not arguments.resume:
            run.partial(stage).unlink(missing_ok=True)
        print(f"{stage}: {describe(run.settings)}", flush=True)
        begun = time.perf_counter()
        metrics = STAGES[stage](run, **run.settings)
        seconds = round(time.perf_counter() - begun, 1)
        row = {"settings": run.settings, "seconds": seconds, "metrics": metrics}
        run.write_json("report.json", report | {stage: row})
        print(f"{stage}: {seconds} s: {describe(metrics)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", metavar="DIR", default="runs/toy", help="run directory (default: %(default)s)")
    add("--preset", metavar="NAME", help=f"size: {', '.join(PRESETS)} (default: toy)")
    add("--data", metavar="DIR", help="train on this folder of UTF-8 files (default: on what "
        "CPython carries)")
    add("--stages", metavar="NAME,NAME", type=lambda names: names.split(","),
        help=f"run only these, anew (default: {','.join(STAGES)})")
    add("--set", metavar="NAME=VALUE", action="append", default=[],
        help="change a setting, model.FIELD or STAGE.NAME; `--set help` lists them")
    add("--seed", metavar="N", type=int, help="of all randomness (default: 0)")
    add("--resume", action="store_true", help="skip stages that are done, and go on with one that "
        "was cut off")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the best there is)")
    run_command(train, parser.parse_args())


if __name__ == "__main__":
    main()
