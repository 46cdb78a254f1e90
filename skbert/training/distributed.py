"""One fit on several processes ("ranks"), each given the same texts: torchrun, torch.distributed.

1. `on_all_ranks` wraps the methods that fit. It uses an existing process group or, in a process that torchrun
   started, makes one and destroys it at the end.
2. Inside, the stages of a fit reach the other ranks through `ranks.current`.
3. An error in the method is reported to the others (`SeveralRanks.leave`). Only rank 0 issues
   skbert's warnings.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

from skbert.exceptions import RankError, SkbertWarning, first_line
from skbert.training.ranks import SeveralRanks, running

F = TypeVar("F", bound=Callable[..., Any])

TIMEOUT = timedelta(minutes=5)  # how long a rank waits for the others, in a process group made here
_one_fit = threading.Lock()


def on_all_ranks(method: F) -> F:
    """Make a method that fits run on all ranks together, where there are several."""

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not (_has_group() or _is_launched()):
            return method(*args, **kwargs)
        with _joined():
            return method(*args, **kwargs)

    return cast(F, run)


def _has_group() -> bool:
    """Whether a process group of several processes has been made."""
    if "torch.distributed" not in sys.modules:
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _is_launched() -> bool:
    """Whether torchrun, or whatever sets the same variables, started this process as one of several."""
    names = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    # Workers of a search inherit the variables, but are not ranks.
    first = multiprocessing.parent_process() is None
    return first and names <= os.environ.keys() and os.environ["WORLD_SIZE"] != "1"


@contextmanager
def _joined() -> Iterator[None]:
    if not _one_fit.acquire(blocking=False):
        raise RankError(
            "A fit is running in this process, and ranks run one fit at a time. Fit one after the other, "
            "without n_jobs."
        )
    try:
        with _process_group() as control, warnings.catch_warnings():
            ranks = SeveralRanks(control)
            if ranks.rank > 0:
                warnings.simplefilter("ignore", SkbertWarning)
            token = running.set(ranks)
            try:
                yield
            except BaseException as error:
                ranks.leave(error)
                raise
            finally:
                running.reset(token)
    finally:
        _one_fit.release()


@contextmanager
def _process_group() -> Iterator[Any]:
    """A group of all ranks that takes tensors on the CPU; if it is made here, it is destroyed again."""
    import torch.distributed as dist

    if not _has_group():
        _init_process_group()
        made = control = dist.group.WORLD
    elif "cpu:" in dist.get_backend_config():
        made, control = None, dist.group.WORLD
    else:
        made = control = dist.new_group(backend="gloo", timeout=TIMEOUT)
    try:
        yield control
    finally:
        if made is not None:
            dist.destroy_process_group(made)


_store: Any = None  # the connection to the store, kept for the life of the process
_groups_made = 0


def _init_process_group() -> None:
    """Make the default group from torchrun's environment."""
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    global _groups_made, _store
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        if _store is None:
            _store = next(rendezvous("env://", timeout=TIMEOUT))[0]
        # A new prefix each time: the addresses of the previous group are still in the store.
        _groups_made += 1
        store = PrefixStore(f"skbert_{_groups_made}", _store)
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"The ranks did not find each other ({first_line(error)}). Every rank must call fit. RANK="
            f"{os.environ['RANK']}, WORLD_SIZE={os.environ['WORLD_SIZE']}, MASTER_ADDR="
            f"{os.environ['MASTER_ADDR']} and MASTER_PORT={os.environ['MASTER_PORT']} are variables that "
            "torchrun sets. Outside of torchrun, unset them."
        ) from error
