"""What a preset takes to train, and to carry: parameters, memory, days, sizes of files.

    python -m afm_min.plan --preset afm-on-device --devices 8 --flops 989 --share 0.4

It prints the sheet of formulas, plan.txt, with the numbers put in, for a pocket calculator. Tests
compare it with what is built: model, optimizer state, what autograd keeps, operations counted,
adapters, packed weights. Left out: a teacher, what a step needs for a moment, waiting for other
devices.

    replicated   4 bytes each for a parameter, its gradient, and AdaStar's v and m
    fully_shard  a device's part of them; and whole, as they are gathered to be used, parameters and
                 gradients of the embedding, which is first and last, and of one layer
    besides      kept from the forward pass for the backward one: all weights in bfloat16, and
                 activations as model.py has them, which writes the scores of attention out
    training     operations of matrix products, those on masked tokens included: 2 forward and
                 4 backward for each parameter; 12 for each pair of tokens and attention dim
    packed       projections in 2 bits or 4, b on average, and so with look-up tables of 4 values or
                 16, 6 b - 8 on average; in 8 bits the embedding, with a scale of 2 bytes a row
"""
import argparse
import dataclasses
import math
import pathlib
import re

from afm_min.model import PRESETS
from afm_min.quantize import GROUP
from afm_min.run import UserError, run_command

# Trillions of tokens, length of a sequence (the report's section 3). That the parent's core had as
# many as the server model's is derived: both had the same recipe.
REPORTED = {"afm-on-device": {"core": (6.3, 4096), "continued": (1, 8192),
                              "lengthening": (0.1, 32_768)},
            "afm-parent": {"core": (6.3, 4096), "pruning": (0.188, 4096)}}
OPTIONS = {  # default, least, most, meaning
    "devices": (8, 1, 10 ** 6, "that train"),
    "flops": (989.0, 0.001, 10 ** 6, "peak of a device in bfloat16, 10^12 a second; an H100's"),
    "share": (0.4, 0.001, 1, "of the peak that training reaches"),
    "batch_tokens": (4096 * 4096, 1, 10 ** 12, "tokens of a step; the server model's"),
    "rank": (16, 1, 10 ** 6, "of an adapter, beside 8, 16 and 32"),
    "bits": (3.7, 2, 4, "of the packed projections, on average")}


def shown(x):
    """2586574848 -> '2,586,574,848', 0.4 -> '0.4'"""
    return f"{x:,.0f}" if x >= 1000 else f"{x:.4g}"


def calculate(formula):
    """'26 layers x (2 + 10^3) bytes' -> 26052: words and commas are left out, " x " is times."""
    signs = formula.replace(" x ", " * ").replace("^", "**")
    return eval(re.sub(r"[^\d.+\-*/() ]", "", signs))  # of digits and signs alone


def fill_in(preset, given):
    """The sheet of a preset: what -> (formula with the numbers put in, value, unit). given: option
    -> value."""
    config, stages = PRESETS[preset], REPORTED.get(preset, {})
    known, sheet = dataclasses.asdict(config) | given, {}
    for name, inputs in (("dim", config.dim), ("width", config.heads * config.head_dim),
                         ("hidden", config.hidden)):  # of a projection: each group has a table
        known[f"{name}, groups"] = math.ceil(inputs / GROUP)
    for stage, (tokens, length) in stages.items():
        known |= {f"{stage}, tokens": tokens, f"{stage}, length": length}
    several = {"STAGE": stages, "RANK": sorted({8, 16, 32, given["rank"]})}
    lines = pathlib.Path(__file__).with_suffix(".txt").read_text().splitlines()
    for line in (line for line in lines if not line.startswith("#")):
        word = next((word for word in several if word in line), "")
        for name in several.get(word, [""]):
            what, _, rest = line.replace(word, str(name)).partition(": ")
            formula, _, unit = rest.partition("; ")
            formula = formula.format_map({key: shown(x) for key, x in known.items()})
            known[what] = calculate(formula)
            sheet[what] = formula, known[what], unit
    return sheet


def plan(arguments):
    if arguments.preset not in PRESETS:
        raise UserError(f"--preset {arguments.preset}: choose one of {', '.join(PRESETS)}")
    given = {name: vars(arguments)[name] for name in OPTIONS}
    for name, (_, least, most, _) in OPTIONS.items():
        if not least <= given[name] <= most:
            raise UserError(f"--{name.replace('_', '-')} {given[name]}: give {least:,} to {most:,}")
    for what, (formula, value, unit) in fill_in(arguments.preset, given).items():
        power = 0
        while unit and value >= 999.95:  # which four digits would show as 1000
            value, power = value / 1000, power + 1
        print(f"{what}: {formula} = {shown(value)} {' KMGTPE'[power].strip()}{unit}".rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", metavar="NAME", default="afm-on-device",
                        help=f"{', '.join(PRESETS)} (default: %(default)s)")
    for name, (default, _, _, meaning) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="N", type=type(default),
                            default=default, help=f"{meaning} (default: %(default)s)")
    run_command(plan, parser.parse_args())


if __name__ == "__main__":
    main()
