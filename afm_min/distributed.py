"""Data parallelism and sharding: torchrun --standalone --nproc-per-node N train.py ...

A rank is one of the processes that torchrun starts. All run the same code with the same seeds, so
they agree at every step. They share out the rows of a batch, the prompts to answer, and with
--shard the parameters, gradients and optimizer state of a model. Only rank 0 prints and writes
files, except for the shards of a model. Ranks on several machines need a folder that all of them
can read and write. Without torchrun there is one process, of rank 0.
"""
import contextlib
import hashlib
import json
import multiprocessing.connection
import os
import pathlib
import signal
import sys
import threading

import torch
import torch.distributed as dist

from afm_min.errors import UserError

CHECKSUMS = "checksums.json"  # of the other files in a folder of shards
total_rows = 0  # rows of the current micro-batch on all ranks together, set by trainer.backward


def end_with_parent():
    """In a worker process: end as soon as the parent process has ended, even if it was killed.

    Ctrl-C interrupts both. The worker ignores it, and ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def join(device):
    """Join the process group if torchrun started this process. Ranks above 0 print nothing."""
    if "RANK" in os.environ and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if rank() > 0:
            sys.stdout = open(os.devnull, "w")


def cores():
    """Return the number of cores that this process may use; taskset and cpusets can limit it."""
    with contextlib.suppress(AttributeError):  # macOS and Windows do not have it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def rank():
    """Return this process's number among all processes, 0 to world_size() - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_sum(tensors):
    """Replace each tensor by its sum over all ranks, except sharded ones: PyTorch has summed the
    gradients of sharded parameters in backward."""
    for tensor in tensors:
        if world_size() > 1 and not is_sharded(tensor):
            dist.all_reduce(tensor)


def all_gather_object(value):
    """All-gather a picklable object. Returns a list with one entry per rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def split_work(work, items):
    """Return the list work(items), which has one result per item. Each rank computes a part.

    With two ranks, of items [a, b, c], rank 0 computes [a, c] and rank 1 computes [b]."""
    parts = all_gather_object(work(own_rows(items)))
    # With N ranks, item i is entry i // N of rank i % N.
    return [parts[i % world_size()][i // world_size()] for i in range(len(items))]


def own_rows(rows):
    """Return this rank's rows of a list or tensor: rank, rank + N, rank + 2N, ... of N ranks."""
    return rows[rank()::world_size()]


def all_rows(rows):
    """Return the number of rows of the current micro-batch on all ranks together.

    rows: the number on this rank. Call it inside a loss only: there `trainer.backward` has set
    the total."""
    return total_rows if world_size() > 1 else rows


def is_sharded(tensor):
    """Return True if a tensor is a DTensor, of which each rank holds a shard."""
    return hasattr(tensor, "full_tensor")


def shard(model):
    """Shard parameters, gradients and optimizer state over the ranks with PyTorch's fully_shard.

    The parameters of a submodule are gathered while it computes, and freed afterwards. A model
    whose embedding is frozen is not sharded: only its adapters are trained, and these are small."""
    if is_sharded(model.embedding) or not model.embedding.requires_grad:
        return
    from torch.distributed import fsdp, init_device_mesh  # imported only when used: it is slow
    mesh = init_device_mesh(model.embedding.device.type, (world_size(),))
    parts = []
    for child in model.children():
        parts += child if isinstance(child, torch.nn.ModuleList) else [child]  # blocks one by one
    for part in (*parts, model):
        # By default, the outermost module stays gathered until backward. Sampling responses has no
        # backward: its parameters would stay whole, and zero_grad would not reach the shards.
        fsdp.fully_shard(part, mesh=mesh, reshard_after_forward=True)
        part.set_gradient_divide_factor(1.0)  # sum, not mean: see `trainer.backward`
        part.set_force_sum_reduction_for_comms(True)
    for method in ("hidden_states", "logits"):  # these are called directly, like forward
        fsdp.register_fsdp_forward_method(model, method)


def full_tensor(tensor):
    """Gather a tensor if it is sharded, else return it as it is. All ranks must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def full_state_dict(state, keep=True):
    """Gather the sharded tensors of a state dict on the CPU. All ranks must call this.

    A rank with keep=False takes part, but gets None for every value, as only rank 0 needs them. It
    never holds the whole model: the generator gathers the tensors one by one."""
    full = ((name, full_tensor(x).cpu() if is_sharded(x) else x) for name, x in state.items())
    return {name: tensor if keep else None for name, tensor in full}


def hash_file(path):
    """Return a hash of a file's content, or "" if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def hash_files(folder):
    """Return {name: hash} of the files in a folder of shards. Each rank hashes a part of them."""
    paths = sorted(path for path in pathlib.Path(folder).glob("*") if path.name != CHECKSUMS)
    hashes = split_work(lambda paths: list(map(hash_file, paths)), paths)
    return {path.name: digest for path, digest in zip(paths, hashes)}


def save_sharded(state, folder):
    """Write a nested state dict to a folder. Each rank writes its own shards there.

    Raises OSError on every rank if one of them cannot write."""
    from torch.distributed import checkpoint  # imported only when used: it is slow
    try:
        checkpoint.save(state, checkpoint_id=folder)
    except checkpoint.api.CheckpointException as error:
        reasons = {str(exception) for exception, _ in error.failures.values()}
        raise OSError("; ".join(sorted(reasons))) from None
    hashes, failure = hash_files(folder), ""
    if rank() == 0:
        try:
            pathlib.Path(folder, CHECKSUMS).write_text(json.dumps(hashes))
        except OSError as error:
            failure = error.strerror
    if failure := max(all_gather_object(failure)):  # of rank 0; all wait for it
        raise OSError(failure)


def load_sharded(state, folder):
    """Load into the tensors of a nested state dict, in place, what `save_sharded` wrote.

    The number of ranks may differ from when the folder was written. Raises UserError on every rank
    if a file has changed since."""
    from torch.distributed import checkpoint
    try:
        expected = json.loads(pathlib.Path(folder, CHECKSUMS).read_text())
    except (OSError, ValueError):
        expected = None
    hashes = hash_files(folder)
    if hashes != expected:
        changed = [name for name in hashes if (expected or {}).get(name) != hashes[name]]
        raise UserError(f"{folder} is damaged ({', '.join(changed) or 'files are missing'}): train "
                        "its stage again, with --stages and without --resume")
    checkpoint.load(state, checkpoint_id=folder)
