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

Every file but metrics.jsonl, which grows line by line, is written under a temporary name and then
renamed. Even if the process is killed, a file is the old or the new one, never half of one. All
ranks call a function that writes a file: rank 0 writes, and the others wait until it is complete.
"""
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys

import torch

from afm_min import distributed

FORMAT = "afm_min checkpoint 1"

# By default, glibc returns the memory of a freed large tensor to the system at once, and the next
# step waits for the system to zero new pages. These settings let the process keep free memory:
# blocks of up to 32 MB, half a GB in all. The numbers -3 and -1 are from glibc's malloc.h.
with contextlib.suppress(AttributeError):  # other C libraries have no mallopt
    ctypes.CDLL(None).mallopt(-3, 2 ** 25)  # M_MMAP_THRESHOLD
    ctypes.CDLL(None).mallopt(-1, 2 ** 29)  # M_TRIM_THRESHOLD


class UserError(ValueError):
    """An error that the user can fix. The commands print it as one line and exit with code 2."""


def run_command(command, arguments):
    """Call command(arguments). Print a UserError as one line, without a traceback."""
    try:
        command(arguments)
    except UserError as error:
        if distributed.rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        sys.stdout = None
        sys.exit(1)


def choose_device(name=None):
    """Return the device of that name, by default the best one.

    "cuda" is a different GPU in each process that torchrun starts on a machine: in the third,
    "cuda" -> device("cuda:2"). A name with a number is taken as it is: "cuda:0" ->
    device("cuda:0")."""
    backends = {"cuda": torch.cuda, "mps": torch.backends.mps, "cpu": torch.cpu}
    available = [kind for kind, backend in backends.items() if backend.is_available()]
    name = name or available[0]
    with contextlib.suppress(RuntimeError, AssertionError):  # if there is no such device
        full_name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name
        device = torch.empty(0, device=full_name).device  # torch.device alone would not try it
        if device.type in available:
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


@contextlib.contextmanager
def atomic_write(path):
    """Yield a binary file that replaces `path` if the block ends without error.

    All ranks run the block, but only rank 0 writes to a real file. If it fails, all raise
    UserError."""
    failure = ""
    writes = distributed.rank() == 0
    temporary = pathlib.Path(f"{path}.tmp")
    try:
        with open(temporary if writes else os.devnull, "wb") as file:  # other ranks discard it
            yield file
            if writes:
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the new name without content
        if writes:
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save turns an OSError into a RuntimeError
        failure = f"cannot write {path}: {getattr(error, 'strerror', None) or 'no room, probably'}"
    finally:
        if writes:
            temporary.unlink(missing_ok=True)
    failures = [text for text in distributed.all_gather_object(failure) if text]
    if failures:
        raise UserError(f"{failures[0]}; what was there before is unchanged: make room, then call "
                        "again with --resume")


def write_text(path, text):
    """Write a file in UTF-8, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def save(path, **entries):
    """Write a checkpoint: tensors, numbers, strings, and lists and dicts of them."""
    with atomic_write(path) as file:
        torch.save({"format": FORMAT, **entries}, file)


def load(path, device="cpu"):
    """Read a checkpoint. Raises UserError if the file is missing, damaged, or not a checkpoint.

    weights_only rejects a file that contains code, which a pickle could run."""
    try:
        entries = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no {path}: train the stage first") from None
    except (torch.OutOfMemoryError, MemoryError, PermissionError):
        raise  # these do not mean that the file is damaged
    except Exception:  # a damaged file raises one of many kinds
        entries = None
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise UserError(f"{path} is damaged, or no checkpoint of this program: train its stage "
                        "again, with --stages and without --resume")
    return entries


class Run:
    """One run directory, and what all its stages share: model config, seed, device."""

    def __init__(self, path, device="cpu"):
        self.path, self.device = pathlib.Path(path), device
        self.config, self.seed, self.shard = None, 0, False  # shard: see distributed.py
        self.settings, self.fingerprint = {}, ""  # of the current stage, set by lab/stages.py

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
        if entries["tokenizer"] != self.tokenizer_hash():
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

    def read_json(self, name):
        """Return the content of a JSON file of the run, {} if there is none."""
        path = self.file(name)
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError:
            raise UserError(f"{path} is damaged, not valid JSON: restore it, or start a new run "
                            "with another --out") from None

    def write_json(self, name, content):
        """Write a JSON file of the run."""
        write_text(self.file(name), json.dumps(content, indent=1) + "\n")

    def read_lines(self, name):
        """Return the rows of the JSON lines file of this name, a list."""
        path = self.file(f"{name}.jsonl")
        if not path.exists():
            raise UserError(f"there is no {path}: run the stage {name} first")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def write_lines(self, name, rows):
        """Write the JSON lines file of this name: one line for each row."""
        write_text(self.file(f"{name}.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))

    def log(self, **row):
        """Append one row to metrics.jsonl."""
        if distributed.rank() > 0:
            return
        path = self.file("metrics.jsonl")
        try:
            with self.locked(), open(path, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; make room, then call again "
                            "with --resume") from None

    def read_log(self, stage=None):
        """Iterate over the rows of metrics.jsonl, of one stage or of all."""
        if self.file("metrics.jsonl").exists():
            for line in self.file("metrics.jsonl").read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a kill may have cut the last line
                    row = json.loads(line)
                    if stage is None or row["stage"] == stage:
                        yield row

    def truncate_log(self, stage, after):
        """Drop a stage's rows later than step `after`, as these steps are about to be repeated."""
        with self.locked():
            self.write_lines("metrics", [row for row in self.read_log()
                                         if row["stage"] != stage or row["step"] <= after])
