"""More than one process on one run: torchrun --standalone --nproc-per-node N train.py ..

All processes do the same with the same seeds, so that they agree at every step. Divided is what
takes the time: the rows of a batch, the prompts that are answered, and with --shard what training
keeps of a model. The first process alone prints, and writes files, but for shares of such a model;
processes on several machines need a folder that all of them see. A process that torchrun has not
started is the first of one.
"""
import contextlib
import multiprocessing.connection
import os
import signal
import sys
import threading

import torch
from torch import distributed

batch_rows = 0  # of the micro-batch at work, those of all processes together: set by fit.backward


def end_with_parent():
    """End this process when the one that started it has ended, however suddenly.

    Ctrl-C reaches both: it is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def join(device):
    """Meet the other processes that torchrun has started; of them the first alone prints."""
    if "RANK" in os.environ and not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if rank() > 0:
            sys.stdout = open(os.devnull, "w")


def cores():
    """How many cores this process may use: taskset and cpusets may leave it fewer than exist."""
    with contextlib.suppress(AttributeError):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def rank():
    """The number of this process: 0, 1, ..."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count():
    return distributed.get_world_size() if distributed.is_initialized() else 1


def add_up(tensors):
    """Replace each tensor by the sum over all processes. Sharded ones are sums already."""
    for tensor in tensors:
        if count() > 1 and not sharded(tensor):
            distributed.all_reduce(tensor)


def gathered(thing):
    """What each process has in its place: a list, in their order. All wait for the last."""
    things = [thing] * count()
    if count() > 1:
        distributed.all_gather_object(things, thing)
    return things


def divided(work, items):
    """What work(items) says, a list with a result for each, where every process does its share."""
    shares = gathered(work(mine(items)))
    return [shares[i % count()][i // count()] for i in range(len(items))]


def mine(rows):
    """This process's share of a list or tensor: every n-th."""
    return rows[rank()::count()]


def all_rows(rows):
    """How many rows all processes together have of the batch of which this one has `rows`, in a
    loss that `fit.backward` computes."""
    return batch_rows if count() > 1 else rows


def sharded(tensor):
    """Whether each process has only its share of a tensor: it is a DTensor then."""
    return hasattr(tensor, "full_tensor")


def shard(model):
    """Divide parameters, gradients and optimizer state among the processes: each part's are put
    together when it is at work, and forgotten thereafter (PyTorch's fully_shard). Nothing is
    divided where adapters alone are trained: they are small, and so is a packed model."""
    if sharded(model.embedding) or not model.embedding.requires_grad:
        return
    from torch.distributed import fsdp, init_device_mesh  # half a second, so only when asked for
    mesh = init_device_mesh(model.embedding.device.type, (count(),))
    parts = [part for child in model.children()  # of lists, such as blocks, each
             for part in (child if isinstance(child, torch.nn.ModuleList) else [child])]
    for part in (*parts, model):
        # True: else the outermost stays whole after rollouts, where its gradients are not reset.
        fsdp.fully_shard(part, mesh=mesh, reshard_after_forward=True)
        part.set_gradient_divide_factor(1.0)  # gradients are summed: see `fit.backward`
        part.set_force_sum_reduction_for_comms(True)
    for method in ("states", "logits"):  # called from outside as forward is
        fsdp.register_fsdp_forward_method(model, method)


def whole_tensor(tensor):
    """A tensor put together if it is sharded. All processes must ask."""
    return tensor.full_tensor() if sharded(tensor) else tensor


def whole(state, keep=True):
    """A dict of tensors with the sharded ones put together, on the CPU. All processes must ask;
    one that does not keep what it gets has None in its place, and holds one tensor at a time."""
    full = ((name, whole_tensor(x).cpu() if sharded(x) else x) for name, x in state.items())
    return {name: x if keep else None for name, x in full}


def own(state):
    """A dict of tensors, and of dicts of such, with this process's share of what is sharded."""
    return {name: own(x) if isinstance(x, dict) else x.to_local() if sharded(x) else x
            for name, x in state.items()}


def sharded_as(parameter, share):
    """A process's share of a tensor, put in its place if a parameter of that shape is sharded."""
    if not sharded(parameter):
        return share
    tensor = torch.zeros_like(parameter)
    tensor.to_local().copy_(share)
    return tensor
