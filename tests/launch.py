"""Start functions in processes of their own, without each one importing PyTorch for seconds.

On Linux they are forked from a server that has imported all there is below (the "forkserver" of
multiprocessing). On macOS, where system libraries may fail after a fork, each imports for itself.
"""
import gc
import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import tempfile
import time

import pytest
import torch._dynamo  # else the first optimizer does it
import torch.distributed.fsdp
import torch.distributed.run  # torchrun

import sample
import train

FORKS = sys.platform == "linux"
CONTEXT = multiprocessing.get_context("forkserver" if FORKS else "spawn")
CONTEXT.set_forkserver_preload(["tests.launch"])
PATIENCE = 600  # seconds: more than the slowest machine takes, so that only what hangs is ended

gc.freeze()  # a process that collects garbage need not look through, and so copy, what it shares


def prepare():
    """Have the server begin to import."""
    if FORKS:
        multiprocessing.forkserver.ensure_running()


def command(module, *arguments):
    """Run a command as from the shell: command(train, "--out", "runs/toy")."""
    sys.argv = [f"{module}.py", *map(str, arguments)]
    importlib.import_module(module).main()


def run(function, arguments, output, errors):
    """In the new process: call the function, with what it prints in two files."""
    os.dup2(os.open(output, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY), 2)
    function(*arguments)


class Launched:
    """A function at work in a process of its own; it and its arguments must be picklable."""

    def __init__(self, function, *arguments):
        self.files = [tempfile.NamedTemporaryFile("r") for _ in range(2)]  # output, errors
        self.process = CONTEXT.Process(
            target=run, args=(function, arguments, *(file.name for file in self.files)))
        self.process.start()

    def printed(self):
        """(output, errors) so far."""
        return tuple(open(file.name).read() for file in self.files)

    def wait_for(self, condition):
        """Return once condition() holds, which must be before the process ends."""
        limit = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.is_alive() and time.monotonic() < limit, self.printed()
            time.sleep(0.005)

    def kill(self):
        """SIGKILL, unless it has ended."""
        self.process.kill()
        self.process.join()

    def finish(self):
        """(exit code, output, errors). -9 if it was killed."""
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.kill()
        return self.process.exitcode, *self.printed()
