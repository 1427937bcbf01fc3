"""Several processes on one run: torchrun --standalone --nproc-per-node N train.py ...

All processes run the same code with the same seeds, so they agree at every step. They share what
takes time: the rows of a batch, the prompts to answer, and with --shard the parameters, gradients
and optimizer state of a model. Only rank 0 prints and writes files, except for the shards of such a
model. Processes on several machines need a folder that all of them can read and write. Without
torchrun there is one process, of rank 0.
"""
import contextlib
import multiprocessing.connection
import os
import signal
import sys
import threading

import torch
from torch import distributed

total_rows = 0  # rows of the current micro-batch over all ranks: set by trainer.backward


def end_with_parent():
    """End this process as soon as its parent has ended, even if that was killed.

    Ctrl-C reaches both processes, and is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def join(device):
    """Join the process group that torchrun has started, if it has. Ranks above 0 print nothing."""
    if "RANK" in os.environ and not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if rank() > 0:
            sys.stdout = open(os.devnull, "w")


def cores():
    """Return the number of cores that this process may use; taskset and cpusets can limit it."""
    with contextlib.suppress(AttributeError):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def rank():
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size():
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_sum(tensors):
    """Replace each tensor by its sum over all ranks. Sharded tensors are summed already."""
    for tensor in tensors:
        if world_size() > 1 and not is_sharded(tensor):
            distributed.all_reduce(tensor)


def all_gather_object(thing):
    """All-gather a picklable object. Returns a list with one entry per rank."""
    things = [thing] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(things, thing)
    return things


def split_work(work, items):
    """Return work(items), a list with a result for each item, to which each rank computes a share.

    The items of rank r are items[r::world_size]."""
    shares = all_gather_object(work(own_rows(items)))
    return [shares[i % world_size()][i // world_size()] for i in range(len(items))]


def own_rows(rows):
    """Return this rank's rows of a list or tensor: rows[rank::world_size]."""
    return rows[rank()::world_size()]


def all_rows(rows):
    """Return the number of rows that all ranks together have of a micro-batch.

    rows: the number that this rank has. For losses that `trainer.backward` computes."""
    return total_rows if world_size() > 1 else rows


def is_sharded(tensor):
    """Return whether a tensor is a DTensor, of which each rank holds a shard."""
    return hasattr(tensor, "full_tensor")


def shard(model):
    """Shard parameters, gradients and optimizer state over the ranks with PyTorch's fully_shard.

    Each submodule is gathered while it computes, and freed afterwards. A model whose embedding is
    frozen stays whole: then only adapters are trained, which are small."""
    if is_sharded(model.embedding) or not model.embedding.requires_grad:
        return
    from torch.distributed import fsdp, init_device_mesh  # half a second, so only when asked for
    mesh = init_device_mesh(model.embedding.device.type, (world_size(),))
    parts = [part for child in model.children()  # of lists, such as blocks, each
             for part in (child if isinstance(child, torch.nn.ModuleList) else [child])]
    for part in (*parts, model):
        # Without reshard_after_forward, the outermost module would stay gathered after rollouts,
        # and its gradients would not be reset.
        fsdp.fully_shard(part, mesh=mesh, reshard_after_forward=True)
        part.set_gradient_divide_factor(1.0)  # gradients are sums: see `trainer.backward`
        part.set_force_sum_reduction_for_comms(True)
    for method in ("hidden_states", "logits"):  # called from outside, as forward is
        fsdp.register_fsdp_forward_method(model, method)


def full_tensor(tensor):
    """Return the whole of a tensor that may be sharded. All ranks must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def full_state_dict(state, keep=True):
    """Gather the sharded tensors of a state dict on the CPU. All ranks must call this.

    A rank with keep=False gets None for every tensor, and never holds more than one."""
    full = ((name, full_tensor(x).cpu() if is_sharded(x) else x) for name, x in state.items())
    return {name: x if keep else None for name, x in full}


def save_sharded(state, folder):
    """Write a nested state dict to a folder, in which each rank writes its shards.

    Raises OSError on every rank if one of them cannot write."""
    from torch.distributed import checkpoint
    try:
        checkpoint.save(state, checkpoint_id=folder)
    except checkpoint.api.CheckpointException as error:
        reasons = {str(exception) for exception, _ in error.failures.values()}
        raise OSError("; ".join(sorted(reasons))) from None


def load_sharded(state, folder):
    """Replace the values of a nested state dict by those that `save_sharded` wrote.

    The number of ranks may differ from when they were written."""
    from torch.distributed import checkpoint
    checkpoint.load(state, checkpoint_id=folder)
