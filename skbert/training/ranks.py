"""What the processes of one fit ("ranks") exchange.

1. `share` distributes a mini-batch; `all_reduce` sums the gradients over the ranks, in one flat buffer, in
   the precision of the master weights. All ranks then make the same step.
2. `compare`, `broadcast_object`, `broadcast` and `any` ensure that all begin and decide alike.
3. Before each exchange the ranks tell each other, on the CPU, whether they have failed. An error on one rank
   thus ends the fit on all. A rank that dies closes its connections, and one that hangs runs into the
   timeout: either raises an error on the others.

Data parallelism with synchronous steps: Li et al., 2020, "PyTorch Distributed", arXiv:2006.15704. Without
ranks, `current` returns `Ranks`, which does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from skbert.exceptions import RankError, first_line
from skbert.identity import differences

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Ranks:
    """The only process of a fit: there is nothing to share or to exchange."""

    rank = 0
    size = 1

    def share(self, rows: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, float]:
        """The rows of a mini-batch that this rank computes, and the number to divide its summed loss by.

        Parameters
        ----------
        rows : ndarray of int
        offsets : ndarray of shape (n_rows_of_all_batches + 1,)
            Where each row's tokens begin.
        """
        return rows, len(rows)

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the ranks; all of one dtype, on one device."""

    def broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by that of rank 0; all of one dtype, on one device."""

    def broadcast_object(self, value: T) -> T:
        """The value that rank 0 has."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return flag

    def compare(self, describe: Callable[[], dict[str, str]]) -> None:
        """Raise `RankError` if descriptions differ, naming the differences."""

    def end(self) -> None:
        """Confirm that all ranks came this far; nothing may fail from here on."""


class SeveralRanks(Ranks):
    """The processes of a fit, seen from one of them.

    Parameters
    ----------
    control : torch.distributed.ProcessGroup
        Of all ranks; takes tensors on the CPU.
    """

    def __init__(self, control: Any) -> None:
        import torch.distributed as dist

        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._control = control
        self._over = False  # no exchange is possible any more
        self._buffer: torch.Tensor | None = None

    def share(self, rows: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, float]:
        """What `deal` gives this rank.

        A rank without rows computes one, and divides its loss by infinity: it then has gradients of zero for
        the same weights as the others.
        """
        mine = deal(rows, offsets[rows + 1] - offsets[rows], self.size)[self.rank]
        return (mine, len(rows)) if len(mine) else (rows[:1], math.inf)

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sum over the ranks, in one call."""
        import torch.distributed as dist

        self._exchange_flat(tensors, lambda flat, group: dist.all_reduce(flat, group=group))

    def broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        """Broadcast from rank 0, in one call."""
        import torch.distributed as dist

        self._exchange_flat(tensors, lambda flat, group: dist.broadcast(flat, src=0, group=group))

    def broadcast_object(self, value: T) -> T:
        """Broadcast a value that pickles."""
        import torch.distributed as dist

        self._raise_if_any_failed()
        values = [value]
        with self._exchange():
            dist.broadcast_object_list(values, src=0, group=self._control)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Ask all ranks."""
        self._raise_if_any_failed()
        return self._largest(int(flag)) > 0

    def compare(self, describe: Callable[[], dict[str, str]]) -> None:
        """Gather the descriptions, and compare each with that of rank 0."""
        mine = describe()
        self._raise_if_any_failed()
        first, *others = self._gather(mine)
        found = [
            f"{difference} on rank {rank}"
            for rank, other in enumerate(others, start=1)
            for difference in differences(first, other, "is {first} on rank 0, but {second}")
        ]
        if found:
            self._over = True  # all ranks find the same differences, and leave
            raise RankError(
                "The ranks of this fit were given different input: "
                + "; ".join(found[:3])
                + (f"; and {len(found) - 3} more differences" if len(found) > 3 else "")
                + ". Every rank must call fit with the same data and parameters, in the same order."
            )

    def end(self) -> None:
        """Report to the others for the last time."""
        self._raise_if_any_failed()
        self._over = True

    def leave(self, error: BaseException) -> None:
        """End the fit on the other ranks because of an error on this one."""
        if self._over:
            return
        try:
            self._raise_if_any_failed(error)
        except RankError:  # they have left already; this rank's own error says more
            return

    def _raise_if_any_failed(self, error: BaseException | None = None) -> None:
        """Report whether this rank has failed; if another one has, raise on those that have not."""
        if self._largest(int(error is not None)) == 0:
            return
        said = self._gather(None if error is None else f"{type(error).__name__}: {error}")
        self._over = True
        if error is None:
            rank, message = next((rank, text) for rank, text in enumerate(said) if text is not None)
            raise RankError(
                f"Rank {rank} of {self.size} ended the fit with {message} Rank {self.rank} therefore ends "
                "it too; nothing of it was kept."
            )

    def _largest(self, value: int) -> int:
        import torch
        import torch.distributed as dist

        values = torch.tensor([value])
        with self._exchange():
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._control)
        return int(values)

    def _gather(self, value: T) -> list[T]:
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with self._exchange():
            dist.all_gather_object(values, value, group=self._control)
        return values

    def _exchange_flat(
        self, tensors: Sequence[torch.Tensor], exchange: Callable[[torch.Tensor, Any], Any]
    ) -> None:
        """Lay the tensors end to end, exchange them, and copy them back."""
        import torch

        sizes = [tensor.numel() for tensor in tensors]
        flat = self._flat(tensors[0], sum(sizes))
        with torch.no_grad():
            torch.cat([tensor.reshape(-1) for tensor in tensors], out=flat)
            self._raise_if_any_failed()
            # From here to the end of the exchange nothing of this rank's own can fail.
            with self._exchange():
                exchange(flat, self._control if flat.device.type == "cpu" else None)
            pieces = [piece.view_as(t) for piece, t in zip(flat.split(sizes), tensors, strict=True)]
            torch._foreach_copy_(list(tensors), pieces)

    def _flat(self, like: torch.Tensor, size: int) -> torch.Tensor:
        """A buffer of `size` elements, reused at every step."""
        kept = self._buffer
        if kept is None or len(kept) < size or (kept.dtype, kept.device) != (like.dtype, like.device):
            self._buffer = kept = like.new_empty(size)
        return kept[:size]

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        self._over = True  # after an aborted exchange the next one would hang
        try:
            yield
        except RuntimeError as error:
            raise RankError(
                f"Rank {self.rank} of {self.size} lost contact with the others ({first_line(error)}). One of "
                "them has ended, hangs, or was busy for longer than the timeout; see its own output. For a "
                "longer timeout, call torch.distributed.init_process_group(timeout=...) before fit."
            ) from error
        self._over = False


def deal(rows: np.ndarray, lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Deal rows like cards, longest first, so that all ranks get about the same number of tokens.

    Parameters
    ----------
    rows, lengths : ndarray of int, shape (n_rows,)
    size : int
        Number of ranks.

    Returns
    -------
    list of ndarray of int
        The rows of each rank; the first ranks may have one row more.
    """
    longest_first = rows[np.argsort(-lengths, kind="stable")]
    return [longest_first[rank::size] for rank in range(size)]


ALONE = Ranks()
running: ContextVar[Ranks] = ContextVar("skbert_ranks", default=ALONE)


def current() -> Ranks:
    """The ranks of the fit that is running in this thread."""
    return running.get()
