"""Read and write files: written whole or not at all, refused if they were changed since.

Each file that the program reads again contains a checksum of its name and content. So a file that
was damaged, edited, or copied to the place of another one is refused: it would give wrong results.
"""
import contextlib
import hashlib
import json
import os
import pathlib

import torch

from afm_min import distributed

FORMAT = "afm_min file 2"  # a part of each checksum
CHECKSUM_LENGTH = 64  # hexadecimal digits
BLOCK_SIZE = 2**20  # bytes that are read at once
CHECKSUMS = "checksums.json"  # of the other files in a folder of shards


class UserError(ValueError):
    """An error that the user can fix. The commands print it as one line and exit with code 2."""


@contextlib.contextmanager
def atomic_write(path):
    """Yield a binary file that replaces `path` if the block ends without error.

    All ranks run the block, but only rank 0 writes to a real file. If it fails, all raise
    UserError."""
    failure = ""
    writes = distributed.rank() == 0
    temporary = pathlib.Path(f"{path}.tmp")
    try:
        with open(temporary if writes else os.devnull, "w+b") as file:  # other ranks discard it
            yield file
            if writes:
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the new name without content
        if writes:
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        cause = error  # torch.save raises a RuntimeError while it handles an OSError
        while isinstance(cause, RuntimeError):
            cause = cause.__context__
        if not isinstance(cause, OSError):
            raise  # this is no failed write
        failure = f"cannot write {path}: {cause.strerror or cause}"
    finally:
        if writes:
            temporary.unlink(missing_ok=True)
    failures = [text for text in distributed.all_gather_object(failure) if text]
    if failures:
        raise UserError(f"{failures[0]}; what was there before is unchanged: make room, or "
                        "remove what forbids it, then call again with --resume")


def write_text(path, text):
    """Write a file in UTF-8, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def checksum(path, blocks):
    """Return a hash, 64 hex digits, of a file's name and of its content, an iterable of bytes."""
    digest = hashlib.sha256(f"{FORMAT} {pathlib.Path(path).name}\n".encode())
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def read_blocks(file, size):
    """Yield the first `size` bytes of a file. A large file is never in memory as a whole."""
    file.seek(0)
    for start in range(0, size, BLOCK_SIZE):
        yield file.read(min(BLOCK_SIZE, size - start))


def save(path, **entries):
    """Write a checkpoint: tensors, numbers, strings, and lists and dicts of them.

    It is a file of torch.save, followed by its checksum, which torch.load ignores."""
    with atomic_write(path) as file:
        torch.save(entries, file)
        file.flush()
        size = os.fstat(file.fileno()).st_size
        digits = checksum(path, read_blocks(file, size))
        file.seek(size)
        file.write(digits.encode())


def load(path, device="cpu"):
    """Read a checkpoint. Raises UserError if it is missing, unreadable, or not as `save` wrote it.

    weights_only rejects a file that contains code, which a pickle could run."""
    try:
        with open(path, "rb") as file:
            size = max(0, os.fstat(file.fileno()).st_size - CHECKSUM_LENGTH)
            if checksum(path, read_blocks(file, size)).encode() != file.read():
                raise UserError(f"{path} is damaged, or no checkpoint of this program and of this "
                                "name: train its stage anew, with --again")
            file.seek(0)
            return torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no {path}: train the stage first") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (RuntimeError, MemoryError) as error:  # the file is whole, so it is lack of memory
        reason = str(error).partition("\n")[0] or "out of memory"
        raise UserError(f"cannot load {path}: {reason}") from error


def last_line(path, lines):
    """Return the last line of a JSON lines file, the checksum of the lines before it, as bytes."""
    return json.dumps({"sha256": checksum(path, lines)}).encode() + b"\n"


def write_json(path, content):
    """Write a JSON file, {"sha256": checksum, "content": content}."""
    digits = checksum(path, [json.dumps(content).encode()])
    write_text(path, json.dumps({"sha256": digits, "content": content}, indent=1) + "\n")


def read_json(path):
    """Return the content of a JSON file, or None if it is damaged or was not written here."""
    with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
        entries = json.loads(pathlib.Path(path).read_text("utf-8"))
        if entries["sha256"] == checksum(path, [json.dumps(entries["content"]).encode()]):
            return entries["content"]
    return None


def write_lines(path, rows):
    """Write a JSON lines file: one line for each row, then {"sha256": checksum}."""
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    with atomic_write(path) as file:
        file.writelines([*lines, last_line(path, lines)])


def read_lines(path):
    """Return the rows of a JSON lines file, or None if it is damaged or was not written here."""
    *lines, last = path.read_bytes().splitlines(keepends=True) or [b""]
    return [json.loads(line) for line in lines] if last == last_line(path, lines) else None


def hash_shards(folder):
    """Return {name: checksum} of the files in a folder of shards, "" for one that cannot be read.
    Each rank reads a part of them."""
    def hash_file(path):
        try:
            with open(path, "rb") as file:
                return checksum(path, read_blocks(file, os.fstat(file.fileno()).st_size))
        except OSError:
            return ""
    paths = sorted(path for path in pathlib.Path(folder).glob("*") if path.name != CHECKSUMS)
    digits = distributed.split_work(lambda paths: list(map(hash_file, paths)), paths)
    return {path.name: digit for path, digit in zip(paths, digits)}


def save_sharded(state, folder):
    """Write a nested state dict to a folder. Each rank writes its own shards there.

    Raises UserError on every rank if one of them cannot write."""
    from torch.distributed import checkpoint  # imported only when used: it is slow
    try:
        checkpoint.save(state, checkpoint_id=folder)
    except checkpoint.api.CheckpointException as error:
        reasons = {str(exception) for exception, _ in error.failures.values()}
        raise UserError(f"cannot write {folder}: {'; '.join(sorted(reasons))}; make room, then "
                        "call again with --resume") from None
    write_json(pathlib.Path(folder, CHECKSUMS), hash_shards(folder))


def load_sharded(state, folder):
    """Load into the tensors of a nested state dict, in place, what `save_sharded` wrote.

    The number of ranks may differ from when the folder was written. Raises UserError on every rank
    if a file has changed since."""
    from torch.distributed import checkpoint
    path, hashes = pathlib.Path(folder, CHECKSUMS), hash_shards(folder)
    expected = (read_json(path) if path.exists() else None) or {}
    if not expected or hashes != expected:
        changed = [name for name in hashes if expected.get(name) != hashes[name]]
        raise UserError(f"{folder} is damaged ({', '.join(changed) or 'files are missing'}): train "
                        "its stage anew, with --again")
    checkpoint.load(state, checkpoint_id=folder)
