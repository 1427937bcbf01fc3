"""Start functions in processes of their own, without each one importing PyTorch for seconds.

On Linux they are forked from a server that has imported this module (the "forkserver" method of
multiprocessing). On macOS, where system libraries may fail after a fork, each process imports it.
"""
import gc
import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import tempfile
import time

import torch._dynamo  # otherwise imported by the first optimizer
import torch.distributed.fsdp
import torch.distributed.run  # noqa: F401  (torchrun)

# What the launched functions use, so that the server has imported it:
import pytest  # noqa: F401
import sample  # noqa: F401
import train  # noqa: F401

FORKS = sys.platform == "linux"
CONTEXT = multiprocessing.get_context("forkserver" if FORKS else "spawn")
CONTEXT.set_forkserver_preload(["tests.helpers.launch"])
TIMEOUT = 600  # seconds: more than the slowest machine needs

gc.freeze()  # forked processes share these objects; a garbage collection would copy them


def start_server():
    """Start the server, so that its imports run while the first tests do."""
    if FORKS:
        multiprocessing.forkserver.ensure_running()


def command(module, *arguments):
    """Run a command as from the shell: command("train", "--out", "runs/toy")."""
    sys.argv = [f"{module}.py", *map(str, arguments)]
    importlib.import_module(module).main()


def run_redirected(function, arguments, output, errors):
    """Call a function with standard output and standard error going to two files."""
    os.dup2(os.open(output, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY), 2)
    function(*arguments)


class Launched:
    """A function that runs in a process of its own. It and its arguments must be picklable."""

    def __init__(self, function, *arguments):
        self.files = [tempfile.NamedTemporaryFile("r") for _ in range(2)]  # output, errors
        self.process = CONTEXT.Process(target=run_redirected, args=(
            function, arguments, *(file.name for file in self.files)))
        self.process.start()

    def printed(self):
        """Return (output, errors) so far."""
        return tuple(open(file.name).read() for file in self.files)

    def wait_for(self, condition):
        """Return once condition() holds. Fails if the process ends first."""
        limit = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.is_alive() and time.monotonic() < limit, self.printed()
            time.sleep(0.005)

    def kill(self):
        """Send SIGKILL, unless the process has ended."""
        self.process.kill()
        self.process.join()

    def finish(self):
        """Wait for the end. Returns (exit code, output, errors); the code is -9 if killed."""
        self.process.join(TIMEOUT)
        if self.process.is_alive():
            self.kill()
        return self.process.exitcode, *self.printed()
