"""The run directory: the files of a run, safe writing, and errors that the user can fix.

    run.json           the preset, model, seed and settings that the run was started with
    documents.jsonl    the training text
    tokenizer.json     learned from that text
    tokens.pt          the text as token ids
    STAGE.jsonl        examples that a stage made
    mixture.json       the data mixture that a stage found
    STAGE.pt           a finished stage's checkpoint
    STAGE.part.pt      an unfinished stage's checkpoint; if the model is sharded, its tensors are in
                       a folder STAGE-...-50.shards, here after step 50
    metrics.jsonl      a row for each training step
    report.json        a row for each finished stage
    report.md          tables and pictures made from the two files above
    environment.json   the machine and the versions used
    .lock              empty; see Run.locked
    .train.lock        empty; see Run.reserved

Every file but metrics.jsonl, which grows line by line, is written under a temporary name and then
renamed. Even if the process is killed, a file is the old or the new one, never half of one. All
ranks call a function that writes a file: rank 0 writes, and the others wait until it is complete.

Each file that the program reads again contains a checksum of its name and content. So a file that
was damaged, edited, or copied to the place of another one is refused: it would give wrong results.
"""
import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys
import zlib

import torch

from afm_min import distributed
from afm_min.files import (UserError, atomic_write, load, read_json, read_lines, save, write_json,
                           write_lines, write_text)

__all__ = ["UserError", "atomic_write", "load", "save", "write_text"]  # imported from here, too

# By default, glibc returns the memory of a freed large tensor to the system at once, and the next
# step waits for the system to zero new pages. These settings let the process keep free memory:
# blocks of up to 32 MB, half a GB in all. The numbers -3 and -1 are from glibc's malloc.h.
with contextlib.suppress(AttributeError):  # other C libraries have no mallopt
    ctypes.CDLL(None).mallopt(-3, 2 ** 25)  # M_MMAP_THRESHOLD
    ctypes.CDLL(None).mallopt(-1, 2 ** 29)  # M_TRIM_THRESHOLD


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, as in `run_command`."""

    def __init__(self, description):
        raw = argparse.RawDescriptionHelpFormatter  # keep the lines of the description
        super().__init__(description=description, formatter_class=raw)

    def error(self, message):
        print(f"error: {message}; --help lists the options", file=sys.stderr)
        sys.exit(2)


def run_command(command, arguments):
    """Call command(arguments). Print a UserError, or an error of the system such as "too many open
    files", as one line, without a traceback."""
    try:
        command(arguments)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        sys.stdout = None
        sys.exit(1)
    except (UserError, OSError) as error:
        rank = distributed.rank()  # perhaps no other rank has failed, so each prints its error
        line = " ".join(str(error).splitlines())
        print(f"error{f' on rank {rank}' if rank else ''}: {line}", file=sys.stderr)
        sys.exit(2)


def choose_device(name=None):
    """Return the device of that name, by default the best one.

    "cuda" is a different GPU in each process that torchrun starts on a machine: in the third,
    "cuda" -> device("cuda:2"). A name with a number is taken as it is: "cuda:0" ->
    device("cuda:0")."""
    backends = {"cuda": torch.cuda, "mps": torch.backends.mps, "cpu": torch.cpu}
    available = [kind for kind, backend in backends.items() if backend.is_available()]
    name = name or available[0]
    # PyTorch also accepts other names, such as "c" for "cpu" in some versions.
    known = name.partition(":")[0] in available
    with contextlib.suppress(RuntimeError, AssertionError):  # if there is no such device
        full_name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name
        device = torch.empty(0, device=full_name).device  # torch.device alone would not try it
        if known and device.type in available:
            return device
    raise UserError(f"device {name!r} is not available here (available: {', '.join(available)})")


def compute_dtype(device):
    """Return bfloat16 if the device has fast instructions for it, else float32.

    This is mixed precision, as in the report: parameters stay float32 and are cast where used."""
    kind = torch.device(device).type
    fast = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        has = torch.cpu.get_capabilities()
        # PyTorch may use less than the CPU has, for example with ATEN_CPU_CAPABILITY=avx2.
        used = torch.backends.cpu.get_cpu_capability()
        fast = used == "AVX512" and (has.get("avx512_bf16") or has.get("amx_bf16"))
    return torch.bfloat16 if fast else torch.float32


def row_crc(row):
    """Return a checksum of a row of metrics.jsonl, an int."""
    return zlib.crc32(json.dumps(row).encode())


def log_line(row):
    """Return a row of metrics.jsonl as a line of text."""
    return json.dumps(row | {"crc": row_crc(row)}) + "\n"


def parse_log_line(line):
    """Return the row of a line of metrics.jsonl, or None if a kill has cut it or it is damaged."""
    with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):
        row = json.loads(line)
        if row.pop("crc") == row_crc(row):
            return row
    return None


class Run:
    """One run directory, and what all its stages share: model config, seed, device."""

    def __init__(self, path, device="cpu"):
        self.path, self.device = pathlib.Path(path), device
        self.config, self.seed, self.shard = None, 0, False  # shard: see distributed.py
        self.settings, self.fingerprint = {}, ""  # of the current stage, set by lab/runner.py

    def create(self):
        """Make the folder, if there is none."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self.path}: {error.strerror}") from None

    def file(self, name):
        """Return the path of a file of the run."""
        return self.path / name

    def checkpoint(self, stage):
        """Return the path of a finished stage's checkpoint."""
        return self.file(f"{stage}.pt")

    def partial_checkpoint(self, stage):
        """Return the path of an unfinished stage's state."""
        return self.file(f"{stage}.part.pt")

    def shards(self, stage, step):
        """Return the folder of an unfinished stage's sharded state after a step."""
        return self.file(f"{stage}-{self.fingerprint}-{step}.shards")

    def remove_shards(self, stage, except_step=None):
        """Remove a stage's folders of sharded states, except that of one step, if given."""
        for folder in self.path.glob(f"{stage}-*.shards"):
            if distributed.rank() == 0 and folder != self.shards(stage, except_step):
                shutil.rmtree(folder)

    def tokenizer_hash(self):
        """Return a hash, 16 hex digits, of the run's tokenizer file."""
        return hashlib.sha256(self.file("tokenizer.json").read_bytes()).hexdigest()[:16]

    def provenance(self, stage):
        """Return the entries that record in each checkpoint how it was made."""
        return {"stage": stage, "settings": self.settings, "fingerprint": self.fingerprint,
                "tokenizer": self.tokenizer_hash()}

    def load(self, path, device="cpu"):
        """Read a checkpoint of this run. Raises UserError if it was made with another tokenizer."""
        entries = load(path, device)
        if entries.get("tokenizer") != self.tokenizer_hash():
            raise UserError(f"{path} was made with another tokenizer than the run has now: train "
                            "its stage again")
        return entries

    @contextlib.contextmanager
    def locked(self):
        """Hold the run's lock. Several processes can run stages of the same run at once, so lock it
        while changing a file that they share.

        Only rank 0 locks: all ranks write together, so a second one, waiting for the lock, would
        block the first."""
        with open(self.file(".lock"), "a") as file:  # network folders cannot lock a folder
            if distributed.rank() == 0:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield  # closing the file unlocks it

    @contextlib.contextmanager
    def reserved(self):
        """Keep the run for this process until the block ends. Raises UserError if another process
        has it. The processes that run stages side by side belong to the one that has it."""
        failure = ""
        with open(self.file(".train.lock"), "a") as file:
            if distributed.rank() == 0:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    failure = (f"another process works on {self.path}: wait until it has ended, or "
                               "choose another --out")
            if failure := max(distributed.all_gather_object(failure)):
                raise UserError(failure)
            yield  # closing the file unlocks it

    def read_json(self, name):
        """Return the content of a JSON file of the run, {} if there is none."""
        path = self.file(name)
        content = read_json(path) if path.exists() else {}
        if content is None:
            raise UserError(f"{path} is damaged, not valid JSON or not as this program wrote it: "
                            "restore it, or start a new run with another --out")
        return content

    def write_json(self, name, content):
        """Write a JSON file of the run."""
        write_json(self.file(name), content)

    def read_lines(self, name, stage=""):
        """Return the rows of the JSON lines file of this name, a list.

        stage: the stage that writes the file, if it has another name."""
        path = self.file(f"{name}.jsonl")
        if not path.exists():
            raise UserError(f"there is no {path}: run the stage {stage or name} first")
        rows = read_lines(path)
        if rows is None:
            raise UserError(f"{path} is damaged, or not as this program wrote it: run its stage "
                            "anew, with --again")
        return rows

    def write_lines(self, name, rows):
        """Write the JSON lines file of this name: one line for each row, then the checksum."""
        write_lines(self.file(f"{name}.jsonl"), rows)

    def log(self, **row):
        """Append one row to metrics.jsonl, with a checksum of its own."""
        if distributed.rank() > 0:
            return
        path = self.file("metrics.jsonl")
        try:
            with self.locked(), open(path, "a") as file:
                file.write(log_line(row))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; make room, then call again "
                            "with --resume") from None

    def read_log(self, stage=None):
        """Iterate over the rows of metrics.jsonl, of one stage or of all."""
        if self.file("metrics.jsonl").exists():
            for line in self.file("metrics.jsonl").read_bytes().splitlines():
                row = parse_log_line(line)
                if row and stage in (None, row["stage"]):
                    yield row

    def truncate_log(self, stage, after):
        """Drop a stage's rows later than step `after`, as these steps are about to be repeated."""
        with self.locked():
            rows = [row for row in self.read_log() if row["stage"] != stage or row["step"] <= after]
            write_text(self.file("metrics.jsonl"), "".join(map(log_line, rows)))
