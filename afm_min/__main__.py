"""Commands beside train.py and sample.py, each with --help:

    python -m afm_min export    a run as other programs load it
    python -m afm_min claims    what Apple's report claims, as experiments
    python -m afm_min report    the report of a run anew
"""
import importlib
import sys

COMMANDS = ("export", "claims", "report")


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(__doc__.strip(), file=sys.stderr)
        sys.exit(2)
    name = sys.argv.pop(1)
    sys.argv[0] = f"python -m afm_min {name}"
    importlib.import_module(f"afm_min.lab.{name}").main()


if __name__ == "__main__":
    main()
