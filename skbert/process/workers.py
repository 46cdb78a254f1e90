"""The GPU and the number of threads of a process that is one of several on a machine.

1. `choose_gpu`: "auto" is the GPU with the number of a rank (torchrun), or of a worker (joblib: loky,
   multiprocessing), wrapping around; else torch's current one. Dask-CUDA and Ray show each worker its own
   GPUs through CUDA_VISIBLE_DEVICES: torch then counts only those, and no number is needed.
2. `limit_threads`: joblib, Dask, Ray and torchrun give each process its share of the cores through
   OMP_NUM_THREADS. torch follows it; the tokenizers' thread pool has a variable of its own.
3. A process forked from one that has used torch (joblib's backend "multiprocessing") computes with one
   thread: with more it would hang.

Only processes started by others are changed: the first process keeps its environment as it is.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Mapping

from skbert.exceptions import InputError, warn

_NUMBERED = re.compile(r"(?:Loky|ForkPool|SpawnPool|ForkServerPool)\w*-(?:\d+:)*(\d+)")
_said = False  # whether the warning that workers share a GPU was issued
_used_by: int | None = None  # id of the process that first used torch: this one, or one before a fork


def choose_gpu(n_gpus: int, current: int, environment: Mapping[str, str], process: str) -> int:
    """Index of the GPU that "auto" means in a process.

    Parameters
    ----------
    n_gpus : int
        GPUs that torch sees; at least one.
    current : int
        torch's current GPU.
    environment : mapping
        Environment variables: LOCAL_RANK and WORLD_SIZE, as torchrun sets them.
    process : str
        Name of the process: "LokyProcess-3" is the third worker of a search.

    Raises
    ------
    InputError
        If a machine has more ranks than GPUs: they cannot share one.
    """
    worker = worker_number(process)
    if worker is not None:
        return worker % n_gpus
    if environment.get("WORLD_SIZE", "1") == "1" or "LOCAL_RANK" not in environment:
        return current
    rank = int(environment["LOCAL_RANK"])
    if rank >= n_gpus:
        raise InputError(
            f"device='auto' in the process with LOCAL_RANK={rank}, but torch finds {n_gpus} CUDA devices "
            "here. Start as many processes per machine as it has GPUs (torchrun --nproc_per_node), or set "
            "device='cpu'."
        )
    return rank


def worker_number(process: str) -> int | None:
    """Number of a worker of joblib, from 0, by the name of its process; None for any other process."""
    found = _NUMBERED.fullmatch(process)
    return None if found is None else int(found[1]) - 1


def gpu_of_this_process(n_gpus: int, current: int) -> int:
    """`choose_gpu` for this process; the first worker that has to share a GPU warns of it, once."""
    global _said
    process = multiprocessing.current_process().name
    gpu = choose_gpu(n_gpus, current, os.environ, process)
    if worker_number(process) == n_gpus and not _said:
        _said = True
        warn(
            f"There are more workers than GPUs here ({n_gpus}): worker {n_gpus + 1} shares the memory and "
            f"time of cuda:{gpu} with worker {gpu + 1}. n_jobs={n_gpus} gives each worker a GPU of its own."
        )
    return gpu


def limit_threads() -> None:
    """Let this process, if it is one of several, compute with its share of the cores without hanging."""
    _survive_fork()
    started = {"LOCAL_RANK", "RAY_RAYLET_PID"} & os.environ.keys()  # by torchrun, by Ray
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None and (started or multiprocessing.parent_process() is not None):
        os.environ.setdefault("RAYON_NUM_THREADS", threads)


def _survive_fork() -> None:
    """Use one thread in a process forked from one that used torch: with more, torch would wait for ever.

    A fork does not copy the threads of OpenMP's pool, but torch in the child relies on them.
    """
    import torch

    global _used_by
    if _used_by is None:
        _used_by = os.getpid()
    if _used_by != os.getpid() and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
