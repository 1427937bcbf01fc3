"""Call train.py, sample.py and the commands of afm_min.lab, in this process or in a shell."""
import pathlib
import subprocess
import sys

import pytest
import torch

import train
from tests.helpers.launch import TIMEOUT

ROOT = pathlib.Path(__file__).parents[2]
PRETRAIN = ["--until", "lengthening"]
SETTINGS = ["--preset", "tiny", "--set", "core.steps=60", "--set", "core.distill=0.9",
            "--set", "sft.checkpoints=2"]


def call(capsys, command, *arguments):
    """Run a command in this process alone. Returns (exit code, output, errors)."""
    if command is train:
        arguments += ("--jobs", 1)
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(map(str, (command.__file__, *arguments))))
        try:
            command.main()
        except SystemExit as end:
            code = end.code
    return code, *capsys.readouterr()


def shell(*arguments, lines=""):
    """Run python with arguments and lines of input. Returns (exit code, output, errors)."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, text=True, input=lines,
                          capture_output=True, timeout=TIMEOUT)
    return done.returncode, done.stdout, done.stderr


def weights(folder, stage):
    """Return the weights in a stage's checkpoint: {name: tensor}."""
    return torch.load(folder / f"{stage}.pt", weights_only=True)["model"]


def assert_same_weights(expected, actual):
    assert expected.keys() == actual.keys()
    for name, weight in expected.items():
        assert torch.equal(weight, actual[name]), name


def assert_refused(result, message):
    """Assert that a command ended with exit code 2 and one line that contains the message."""
    code, _, errors = result
    assert code == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors
