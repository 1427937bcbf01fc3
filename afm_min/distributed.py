"""Data parallelism and sharding: torchrun --standalone --nproc-per-node N train.py ...

A rank is one of the processes that torchrun starts. All run the same code with the same seeds, so
they agree at every step. They share out the rows of a batch, the prompts to answer, and with
--shard the parameters, gradients and optimizer state of a model. Only rank 0 prints and writes
files, except for the shards of a model. Ranks on several machines need a folder that all of them
can read and write. Without torchrun there is one process, of rank 0.
"""
import contextlib
import multiprocessing.connection
import os
import signal
import sys
import threading

import torch
import torch.distributed as dist

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
