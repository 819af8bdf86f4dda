"""Groups of one route call: which queries go through which keys, and the table by which kernels find their share.

The work of a query is cut by the number and the width of its own keys alone, so whoever else is in the batch changes
no bit of its result, and nobody waits for another's keys. Work is numbered on the host, where all counts are known.
Shapes: G groups, B queries, N keys of a group, E its entries, D width.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

import numpy as np
import torch

BLOCK_N: Final = 16
"""Keys that are ranked at once."""
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class RouteRule:
    """How queries are refined, and what a score has to exceed; as `route_cpu.route_cpu` says."""

    beta: float
    gamma: float
    steps: int
    epsilon: float
    threshold: float
    directions: bool = True
    sure_above: float | None = None

    @property
    def settles(self) -> bool:
        """Whether first scores may decide. More than one step takes the plain way; without any they are exact."""
        return self.sure_above is not None and self.steps == 1 and self.directions


@dataclass(frozen=True, slots=True)
class RouteGroup:
    """Queries that are routed through the same keys by the same rule.

    Attributes
    ----------
    queries
        How many: rows of the batch, those that follow the group before.
    key_rows, owners
        [N] int64, rows of the key buffer and the entry of each, in [0, E). Groups may share both.
    sequences
        [E] int64, distinct edit sequence numbers >= 0. Groups may share the tensor.
    """

    queries: int
    key_rows: torch.Tensor
    owners: torch.Tensor
    sequences: torch.Tensor
    rule: RouteRule

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute."""
        return 0 in (self.queries, self.key_rows.shape[0])


class Column(IntEnum):
    """What the table says of a group; "first" ones count through all groups."""

    ROW = 0
    """First query in the order of the table."""
    QUERY = 1
    """First query in the batch."""
    QUERIES = 2
    KEY = 3
    """First key."""
    KEYS = 4
    SEQUENCE = 5
    """First sequence number."""
    SCORE = 6
    """First score; each query has N of them."""
    CHUNK = 7
    """First chunk of a softmax; each query has CHUNKS of them, of SIZE keys."""
    CHUNKS = 8
    SIZE = 9
    BLOCK = 10
    """First block of ranked keys; each query has BLOCKS of them."""
    BLOCKS = 11
    PART = 12
    """First part of a shortlist; each query has PARTS of them."""
    PARTS = 13


class Parameter(IntEnum):
    """What the table says of a group's rule, in float32; an even number of them: they share the numbers' memory."""

    BETA = 0
    KEEP = 1
    """``1 - gamma``."""
    GAMMA = 2
    EPSILON = 3
    THRESHOLD = 4
    SURE_ABOVE = 5
    """Of groups that settle; else not looked at."""


class RouteTable:
    """All that kernels know of a batch's groups, those with the most steps first.

    Parameters
    ----------
    groups
        In the order of the batch's queries, not all of them empty.
    settles
        Which of them have a place in the table: those that may settle, or the others.
    width
        Of a key.
    part
        Keys of a part of the shortlist.
    device
        Where the table goes, in one copy and without waiting for it.

    Attributes
    ----------
    numbers
        int64; [column, group] of `Column`, then what `rules` shows.
    rules
        The same memory as float32; [parameter, group] of `Parameter` stands behind the numbers.
    key_rows, owners, sequences
        The groups' own ones, one after another.
    steps
        Of each group, never increasing.
    """

    def __init__(
        self, groups: Sequence[RouteGroup], width: int, *, settles: bool = False, part: int, device: torch.device
    ) -> None:
        rows = np.cumsum([0, *(group.queries for group in groups)]).tolist()
        placed = [
            (group, row)
            for group, row in zip(groups, rows, strict=False)
            if not group.is_empty and group.rule.settles == settles
        ]
        # A large codebook's chunks are the longest: they must not be the last to begin.
        placed.sort(key=lambda pair: (pair[0].rule.steps, len(pair[0].key_rows)), reverse=True)
        self.groups = [group for group, _ in placed]
        self.steps = [group.rule.steps for group in self.groups]
        self._ends: dict[Column, list[int]] = {}
        columns = self._columns(width, part)
        columns[Column.QUERY] = [first for _, first in placed]
        pairs = {(id(group.key_rows), id(group.owners)): (group.key_rows, group.owners) for group in self.groups}
        self.key_rows, self.owners = (_joined(list(parts)) for parts in zip(*pairs.values(), strict=True))
        starts = _starts({pair: rows for pair, (rows, _) in pairs.items()})
        columns[Column.KEY] = [starts[id(group.key_rows), id(group.owners)] for group in self.groups]
        distinct = {id(group.sequences): group.sequences for group in self.groups}
        self.sequences, firsts = _joined(list(distinct.values())), _starts(distinct)
        columns[Column.SEQUENCE] = [firsts[id(group.sequences)] for group in self.groups]
        self.numbers = _on_device(_packed(columns, [group.rule for group in self.groups]), device)
        self.rules = self.numbers.view(torch.float32)

    def __len__(self) -> int:
        """Count the groups."""
        return len(self.groups)

    def refined(self, step: int) -> int:
        """Return how many groups, the first ones, take a step (counted from 0)."""
        return sum(steps > step for steps in self.steps)

    def total(self, column: Column, groups: int) -> int:
        """Return how many of a counted column's things the first `groups` have together."""
        return self._ends[column][groups]

    def _columns(self, width: int, part: int) -> np.ndarray:
        columns = np.zeros((len(Column), len(self.groups)), dtype=np.int64)
        keys = [len(group.key_rows) for group in self.groups]
        columns[Column.QUERIES] = [group.queries for group in self.groups]
        columns[Column.KEYS] = keys
        columns[[Column.CHUNKS, Column.SIZE]] = np.array([chunking(count, width) for count in keys]).T
        columns[Column.BLOCKS] = -(-columns[Column.KEYS] // BLOCK_N)
        columns[Column.PARTS] = -(-columns[Column.KEYS] // part)
        self._count(columns, Column.ROW, 1)
        self._count(columns, Column.SCORE, columns[Column.KEYS])
        self._count(columns, Column.CHUNK, columns[Column.CHUNKS])
        self._count(columns, Column.BLOCK, columns[Column.BLOCKS])
        self._count(columns, Column.PART, columns[Column.PARTS])
        return columns

    def _count(self, columns: np.ndarray, column: Column, of_each_query: np.ndarray | int) -> None:
        ends = np.cumsum(columns[Column.QUERIES] * of_each_query)
        columns[column, 1:] = ends[:-1]
        self._ends[column] = [0, *ends.tolist()]


def chunking(keys: int, width: int) -> tuple[int, int]:
    """Return how many chunks the softmax sums `keys` (>= 1) in, and how many keys each has, a whole number of blocks.

    A function of the number of keys and their width alone, so that a sum is the same on every rank and in every batch.
    Enough chunks to fill a GPU, but so few that their sums are small beside the keys.
    """
    most = 512 if width <= 2048 else 256
    chunk = -(-keys // (most * BLOCK_N)) * BLOCK_N
    return -(-keys // chunk), chunk


def _packed(columns: np.ndarray, rules: Sequence[RouteRule]) -> torch.Tensor:
    parameters = np.zeros((len(Parameter), len(rules)), dtype=np.float32)
    parameters[Parameter.BETA] = [rule.beta for rule in rules]
    parameters[Parameter.KEEP] = [1.0 - rule.gamma for rule in rules]
    parameters[Parameter.GAMMA] = [rule.gamma for rule in rules]
    parameters[Parameter.EPSILON] = [rule.epsilon for rule in rules]
    parameters[Parameter.THRESHOLD] = [rule.threshold for rule in rules]
    parameters[Parameter.SURE_ABOVE] = [np.inf if rule.sure_above is None else rule.sure_above for rule in rules]
    return torch.from_numpy(np.concatenate([columns.reshape(-1), parameters.reshape(-1).view(np.int64)]))


def _starts(distinct: Mapping[K, torch.Tensor]) -> dict[K, int]:
    """Return where each tensor begins once all are joined."""
    return dict(zip(distinct, np.cumsum([0, *map(len, distinct.values())]).tolist(), strict=False))


def _joined(columns: Sequence[torch.Tensor]) -> torch.Tensor:
    return columns[0].contiguous() if len(columns) == 1 else torch.cat(list(columns))


def _on_device(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)
