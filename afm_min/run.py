"""The run directory: what is saved, how it survives a kill, and how a mistake is told to the user.

    run.json         preset, model, seed and settings it was begun with
    documents.jsonl  the text; tokenizer.json, tokens.pt: what became of it
    synthetic.jsonl  examples that a stage has made; mixture.json: the weights that one has found
    core.pt          a finished stage's checkpoint; core.part.pt: the state of an unfinished one,
                     and, if it is sharded, core-...-50.0.pt, core-...-50.1.pt: shares of it
    metrics.jsonl    a row per training step; report.json: a row per finished stage
    report.md        both to read, with pictures; environment.json: what it was made with
    .lock            locked by the stage that writes, where several run side by side

Every file but metrics.jsonl is written beside its place and then renamed into it. So whenever the
process dies, there is the old file or the new one, never half of one. Of several processes all call
what writes a file: the first does, and the others wait, so that none reads what is not there yet.
"""
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pathlib
import pickle
import shutil
import sys

import torch

from afm_min import distributed

FORMAT = "afm_min checkpoint 1"
# glibc returns large tensors to the system as soon as they are freed, and the next step waits for
# thousands of zeroed pages again. So free memory is kept: pieces of up to 32 MB, half a GB of it.
with contextlib.suppress(AttributeError):  # there are other C libraries
    ctypes.CDLL(None).mallopt(-3, 2 ** 25)  # M_MMAP_THRESHOLD
    ctypes.CDLL(None).mallopt(-1, 2 ** 29)  # M_TRIM_THRESHOLD


class UserError(ValueError):
    """Something the user can mend. The commands print it as one line and exit with code 2."""


def run_command(command, arguments):
    """Call command(arguments); tell what the user can mend in one line, without a traceback."""
    try:
        command(arguments)
    except UserError as error:
        if distributed.rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        sys.stdout = None
        sys.exit(1)


def choose_device(name=None):
    """The device of that name, or the best there is: of several GPUs each process has its own."""
    best = (f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else
            "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.empty(0, device=best if not name or best.startswith(name) else name).device
        if device.type in ("cpu", "cuda", "mps"):
            return device
    except (RuntimeError, AssertionError):
        pass
    raise UserError(f"--device {name} is not to be had here, but {best} is")


def compute_dtype(device):
    """bfloat16 where the processor multiplies it faster than float32, else float32.

    The parameters stay float32 and are cast where they are used: mixed precision, as reported."""
    kind, has = torch.device(device).type, torch.cpu.get_capabilities()
    # With ATEN_CPU_CAPABILITY=avx2 a newer processor can be used like an older one.
    used = torch.backends.cpu.get_cpu_capability() == "AVX512"
    fast = (kind == "cpu" and used and (has.get("avx512_bf16") or has.get("amx_bf16"))
            or kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.bfloat16 if fast else torch.float32


@contextlib.contextmanager
def atomic_write(path, each=False):
    """Yield a binary file that takes the place of `path` once the block has ended without error.

    each: of several processes each writes a file of its own. What one cannot write, all tell."""
    path, failure = pathlib.Path(path), ""
    writes = each or distributed.rank() == 0
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary if writes else os.devnull, "wb") as file:
            yield file
            if writes:
                file.flush()
                os.fsync(file.fileno())  # the bytes before the name: a power cut must not swap them
        if writes:
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save turns the one into the other
        failure = f"cannot write {path}: {getattr(error, 'strerror', None) or 'no room, it seems'}."
    finally:
        with contextlib.suppress(OSError):
            if writes:
                temporary.unlink()  # if it is still there
    for told in filter(None, distributed.all_gather_object(failure)):
        raise UserError(f"{told} What was there is unchanged; make room, then call again with "
                        "--resume")


def write_text(path, text):
    """Write a file in UTF-8, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def save(path, each=False, **entries):
    """Write a checkpoint: tensors, numbers, strings, and lists and dicts of them."""
    with atomic_write(path, each) as file:
        torch.save({"format": FORMAT, **entries}, file)


def load(path, device="cpu"):
    """Read a checkpoint. `weights_only`: it can hold data but no code.

    Raises UserError if the file is missing, cut short, or something else than a checkpoint."""
    try:
        entries = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no {path}: train the stage first") from None
    except (torch.OutOfMemoryError, PermissionError):
        raise  # not the file's fault
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
        entries = None
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise UserError(f"{path} is damaged, or no checkpoint of this program: delete it and train "
                        "its stage again")
    return entries


class Run:
    """One run directory, and what all its stages share: model config, seed, device."""

    def __init__(self, path, device="cpu"):
        self.path, self.device = pathlib.Path(path), device
        self.config, self.seed, self.shard = None, 0, False  # shard: see distributed.py
        self.settings, self.fingerprint = {}, ""  # of the stage at work: see stages.py

    def create(self):
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self.path}: {error.strerror}") from None

    def file(self, name):
        return self.path / name

    def checkpoint(self, stage):
        return self.file(f"{stage}.pt")

    def partial_checkpoint(self, stage):
        """Where an unfinished stage keeps its state."""
        return self.file(f"{stage}.part.pt")

    def shards(self, stage, step):
        """Folder of an unfinished stage's sharded state after a step."""
        return self.file(f"{stage}-{self.fingerprint}-{step}.shards")

    def remove_shards(self, stage, except_step=None):
        """Remove the folders of a stage's sharded states, except that of one step."""
        for folder in self.path.glob(f"{stage}-*.shards"):
            if distributed.rank() == 0 and folder != self.shards(stage, except_step):
                shutil.rmtree(folder)

    def tokenizer_hash(self):
        """Names the run's tokenizer by its file's content: 16 hex digits."""
        return hashlib.sha256(self.file("tokenizer.json").read_bytes()).hexdigest()[:16]

    def provenance(self, stage):
        """What every checkpoint says of where it comes from."""
        return {"stage": stage, "settings": self.settings, "fingerprint": self.fingerprint,
                "tokenizer": self.tokenizer_hash()}

    def load(self, path, device="cpu"):
        """A checkpoint of this run. Raises UserError if it was made with another tokenizer."""
        entries = load(path, device)
        if entries["tokenizer"] != self.tokenizer_hash():
            raise UserError(f"{path} was made with another tokenizer than the run now has: run its "
                            "stage again")
        return entries

    @contextlib.contextmanager
    def locked(self):
        """Keep other processes of this run from changing a file that all of them write.

        Of several processes that torchrun started only the first locks: they write together."""
        if distributed.rank() > 0:
            yield
            return
        with open(self.file(".lock"), "a") as file:  # a file, as network folders lock no folder
            fcntl.flock(file, fcntl.LOCK_EX)
            yield  # to close it unlocks

    def read_json(self, name):
        """The content of a JSON file of the run, {} if there is none yet."""
        path = self.file(name)
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError:
            raise UserError(f"{path} is damaged: begin a new run with another --out") from None

    def write_json(self, name, content):
        write_text(self.file(name), json.dumps(content, indent=1) + "\n")

    def write_lines(self, stage, rows):
        """Write a stage's rows as JSON lines to `stage`.jsonl."""
        write_text(self.file(f"{stage}.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))

    def read_lines(self, stage):
        """Return the rows that a stage wrote. Raises UserError if there is no such file."""
        path = self.file(f"{stage}.jsonl")
        if not path.exists():
            raise UserError(f"there is no {path}: run the stage {stage} first")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def log(self, **row):
        """Append one row to metrics.jsonl."""
        if distributed.rank() > 0:
            return
        try:
            with self.locked(), open(self.file("metrics.jsonl"), "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.file('metrics.jsonl')}: {error.strerror}; make "
                            "room, then call again with --resume") from None

    def read_log(self, stage=None):
        """The rows of metrics.jsonl, of a stage or of all, one after the other."""
        if self.file("metrics.jsonl").exists():
            for line in self.file("metrics.jsonl").read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a kill may have cut the last line
                    row = json.loads(line)
                    if stage in (None, row["stage"]):
                        yield row

    def truncate_log(self, stage, after):
        """Drop a stage's rows later than step `after`: they are about to be written again."""
        with self.locked():
            kept = [row for row in self.read_log() if row["stage"] != stage or row["step"] <= after]
            write_text(self.file("metrics.jsonl"), "".join(json.dumps(row) + "\n" for row in kept))
