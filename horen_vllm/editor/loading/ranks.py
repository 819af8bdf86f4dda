"""Ranks: the processes that hold one base model together, each a part of its weights (tensor parallelism).

Rank 0 leads: it decides, and the others follow. Every number that a decision is made of is rank 0's on all of them, so
they never part. Does not know models or edits.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum
from importlib.util import find_spec
from typing import Any, Final, NoReturn

import torch
from torch import distributed

from horen_vllm.errors import FailedPrecondition, HorenError

_ORDER_WAIT: Final = timedelta(days=365)
"""An empty queue is no fault."""
_VOTE_WAIT: Final = timedelta(seconds=120)
"""Ranks vote at the same places of the same work, so none is far ahead of another."""
_TORCHRUN: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_BACKENDS: Final = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class RanksLost(SystemExit):
    """A rank is gone, or does something else than the others: the model is of no use any more.

    Ends the process, whatever catches errors on the way; torchrun then ends the others.
    """


class Ranks:
    """A process that holds the whole model: there is nobody to agree with."""

    rank = 0
    size = 1
    hosted = 1
    """Ranks on this machine."""

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @contextmanager
    def together(self, order: object) -> Iterator[None]:
        """Do what is inside the block on all ranks; the others hear `order` from rank 0 and enter the same block.

        An exception must be the same on all of them.
        """
        del order
        yield

    def meet(self) -> None:
        """Wait until all ranks are here, however long that takes."""

    def hear(self) -> Any:
        """Return rank 0's next order; None: there will be no more."""

    def dismiss(self) -> None:
        """Tell the others that there will be no more orders."""

    def share(self, *tensors: torch.Tensor) -> None:
        """Overwrite each tensor with rank 0's."""

    def joined(self, part: torch.Tensor) -> torch.Tensor:
        """Return every rank's [..., n] side by side."""
        return part

    def least(self, number: int) -> int:
        """Return the least of the ranks' numbers."""
        return number

    def all_ran(self, work: Callable[[], bool], num_bytes: int = 0) -> bool:
        """Return whether `work` returned True on every rank.

        Parameters
        ----------
        work
            Returns False when it ended for lack of memory.
        num_bytes
            About what it allocates. With several ranks nobody starts where one of them cannot have so much, because
            those who did would wait for it in the middle.
        """
        del num_bytes
        return work()


ALONE: Final = Ranks()


class _Vote(IntEnum):
    RAN = 0
    LEAST = 1
    OUTCOME = 2


class TensorParallelRanks(Ranks):
    """One of several processes that torchrun started.

    Parameters
    ----------
    device
        Where this rank's part of the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        distributed.init_process_group(backend=_BACKENDS[device.type])
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        self.hosted = int(os.environ["LOCAL_WORLD_SIZE"])
        self._orders = distributed.new_group(backend="gloo", timeout=_ORDER_WAIT)
        self._votes = distributed.new_group(backend="gloo", timeout=_VOTE_WAIT)

    @contextmanager
    def together(self, order: object) -> Iterator[None]:
        """As in `Ranks`; ends the process when the block does not end alike on all ranks."""
        if self.leads:
            self._tell(order)
        try:
            yield
        except Exception as exc:
            self._settle(exc)
            raise
        self._settle(None)

    def meet(self) -> None:
        """Wait until all ranks are here, however long that takes."""
        with _or_lost(self.rank):
            distributed.barrier(group=self._orders)

    def hear(self) -> Any:
        """Return rank 0's next order; None: there will be no more."""
        return self._tell(None)

    def dismiss(self) -> None:
        """Tell the others that there will be no more orders."""
        self._tell(None)

    def share(self, *tensors: torch.Tensor) -> None:
        """Overwrite each tensor with rank 0's."""
        for tensor in tensors:
            distributed.broadcast(tensor, 0)

    def joined(self, part: torch.Tensor) -> torch.Tensor:
        """Return every rank's [..., n] side by side."""
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.size)]
        distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts, dim=-1)

    def least(self, number: int) -> int:
        """Return the least of the ranks' numbers."""
        return min(self._vote(_Vote.LEAST, number))

    def all_ran(self, work: Callable[[], bool], num_bytes: int = 0) -> bool:
        """Return whether `work` returned True on every rank; it is not called where there is no room on one of them."""
        if not all(self._vote(_Vote.RAN, int(self.has_room(num_bytes)))):
            return False
        return all(self._vote(_Vote.RAN, int(work())))

    def has_room(self, num_bytes: int) -> bool:
        """Return whether so much can be allocated here now; a CUDA device keeps it for what comes next."""
        try:
            torch.empty(num_bytes, dtype=torch.uint8, device=self.device)
        except (MemoryError, RuntimeError):
            return False
        return True

    def _tell(self, order: object) -> Any:
        box = [order]
        with _or_lost(self.rank):
            distributed.broadcast_object_list(box, 0, group=self._orders)
        return box[0]

    def _settle(self, exc: Exception | None) -> None:
        name = exc.code if isinstance(exc, HorenError) else type(exc).__name__
        if len(set(self._vote(_Vote.OUTCOME, zlib.crc32(name.encode())))) > 1:
            message = f"rank {self.rank} ended with {exc!r}, another one otherwise."
            raise RanksLost(message) from exc

    def _vote(self, kind: _Vote, number: int) -> list[int]:
        """Return what each rank says; all must be asked the same."""
        mine = torch.tensor([kind, number])
        ballots = [torch.empty_like(mine) for _ in range(self.size)]
        with _or_lost(self.rank):
            distributed.all_gather(ballots, mine, group=self._votes)
        kinds, numbers = zip(*(ballot.tolist() for ballot in ballots), strict=True)
        if len(set(kinds)) > 1:
            message = f"rank {self.rank} is at another place than the others: {kinds}."
            raise RanksLost(message)
        return list(numbers)


@contextmanager
def _or_lost(rank: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:
        message = f"rank {rank} has lost another one, or waited too long for it: {exc}"
        raise RanksLost(message) from exc


def join_ranks(device: str) -> tuple[Ranks, str]:
    """Join the processes that torchrun started, and return this one's device with them.

    Parameters
    ----------
    device
        ``cuda``: each rank takes the GPU of its number on this machine; or ``cpu``.

    Raises
    ------
    FailedPrecondition
        ``unsupported_tensor_parallel``: not under torchrun, more ranks than GPUs, another device than transformers
        would take, or no accelerate, which transformers needs for it.
    """
    missing = [name for name in _TORCHRUN if name not in os.environ]
    if missing:
        _refuse(f"{missing[0]} is not set: start the ranks of --tensor-parallel with torchrun.")
    if find_spec("accelerate") is None:
        _refuse("tensor parallelism needs the package accelerate: pip install 'horen-vllm[tensor-parallel]'.")
    accelerator = torch.accelerator.current_accelerator()
    found = "cpu" if accelerator is None else accelerator.type
    if device not in _BACKENDS or device != found:
        _refuse(f"--device is {device}, and transformers would share the model between the ranks on {found}.")
    if device == "cpu":
        return TensorParallelRanks(torch.device(device)), device
    ranks, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.accelerator.device_count()
    if ranks > devices:
        _refuse(f"there are {ranks} ranks on this machine and {devices} GPUs: each rank needs one of its own.")
    own = torch.device(device, int(os.environ["LOCAL_RANK"]))
    torch.accelerator.set_device_index(own)
    return TensorParallelRanks(own), str(own)


def _refuse(message: str) -> NoReturn:
    raise FailedPrecondition(message, code="unsupported_tensor_parallel")
