"""Routing of one step's requests of one revision: their queries, and which entry each of them matches.

Open entries compete for every request; anchored ones where their subjects occur, with queries of their own.
Shapes: Q queries, D width of the site's input, W width of a query.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from horen_vllm.core.match import NO_ENTRY, KeyTable, Routed, decide_tensors, entry_scores
from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.refine import Reduce, whole
from horen_vllm.kernels import dispatch
from horen_vllm.plugin.codebooks import PagedCodebooks
from horen_vllm.plugin.queries import Ask, asks_of, make_queries
from horen_vllm.plugin.ranks import Ranks
from horen_vllm.plugin.requests import TrackedRequest
from horen_vllm.plugin.revisions import KeyGroup, RevisionView, keep_newest
from horen_vllm.plugin.slots import on_device
from horen_vllm.plugin.verdicts import (
    Verdict,
    best_of,
    group_verdict,
    joined,
    joint_verdict,
    minus_distance,
    nothing,
    radius_verdict,
    without_nan,
)

_MOST_QUERIES: Final = 64
"""Queries that are routed in one call."""

Nearest = tuple[torch.Tensor, torch.Tensor]
"""Entries [k] and their scores [k], best first."""


@dataclass(frozen=True, slots=True)
class _Rivals:
    """Some entries of a revision with numbers of their own, 0 to n - 1.

    Attributes
    ----------
    keys
        Their keys, owned by those numbers.
    entries, sequences
        [n + 1] int64, the entries' indices in the revision and their sequence numbers; the last row is `NO_ENTRY`.
    """

    keys: KeyGroup
    entries: torch.Tensor
    sequences: torch.Tensor


class Router:
    """Routes requests on one rank.

    Parameters
    ----------
    codebooks
        The rank's codebooks.
    ranks
        The tensor-parallel ranks that share a decision; None for one.
    sums_of
        The sums [Q, D] of some queries' tokens.
    """

    def __init__(
        self, codebooks: PagedCodebooks, ranks: Ranks | None, sums_of: Callable[[Sequence[Ask]], torch.Tensor]
    ) -> None:
        self._codebooks = codebooks
        self._ranks = ranks
        self._reduce: Reduce = ranks.sum if ranks is not None else whole
        self._sums_of = sums_of

    def route(self, view: RevisionView, group: Sequence[TrackedRequest]) -> tuple[Verdict, list[Nearest | None]]:
        """Decide for requests of one revision, and list the nearest entries for those that ask."""
        asks = asks_of(group)
        queries = make_queries(view, asks, self._sums_of(asks), self._reduce)
        whole_queries, apart = queries[: len(group)], queries[len(group) :]
        rivals = [self._rivals(view, ask.anchored.entries) for ask in asks if ask.anchored is not None]
        verdict = self._verdict(view, group, whole_queries, list(zip(apart, rivals, strict=True)))
        verdict = verdict if self._ranks is None else self._ranks.agree(verdict)
        return verdict, self._nearest_of(view, group, whole_queries, list(zip(apart, rivals, strict=True)))

    def _verdict(
        self,
        view: RevisionView,
        group: Sequence[TrackedRequest],
        queries: torch.Tensor,
        apart: Sequence[tuple[torch.Tensor, _Rivals]],
    ) -> Verdict:
        rule = view.parameters
        bound = rule.threshold if view.radii is None else -torch.inf
        # Few at a time: routing takes memory for each query, of which no profile of vLLM's has seen any.
        parts = torch.split(queries, _MOST_QUERIES)
        found = joined([self._among(part, view, view.open, view.sequences, bound) for part in parts])
        if view.radii is not None:
            return radius_verdict(found, view.radii)
        of_open = group_verdict(found, rule.threshold, view.floors)
        if not apart:
            return of_open
        anchored = self._anchored(view, group, apart)
        return joint_verdict(of_open, group_verdict(anchored, rule.anchored_threshold, view.floors))

    def _anchored(
        self, view: RevisionView, group: Sequence[TrackedRequest], apart: Sequence[tuple[torch.Tensor, _Rivals]]
    ) -> Routed:
        """Return the decision of each request among its own anchored entries."""
        bound, left, rows = view.parameters.anchored_threshold, iter(apart), []
        for tracked in group:
            parts = []
            for query, rivals in (next(left) for _ in tracked.subjects.queries):
                # A copy begins where a kernel that is compiled already may read it, as a row of others may not.
                routed = self._among(query[None].clone(), view, rivals.keys, rivals.sequences[:-1], bound)
                parts.append((routed, rivals.entries, rivals.sequences))
            rows.append(best_of(parts, bound) if parts else nothing(view.sequences[:1].float()))
        return joined(rows)

    def _among(
        self, queries: torch.Tensor, view: RevisionView, group: KeyGroup, sequences: torch.Tensor, bound: float
    ) -> Routed:
        """Route queries among a group's keys; a score has to exceed `bound`."""
        rule = view.parameters
        if len(group) == 0:
            return nothing(queries)
        if self._shards_keys(view):
            table = self._codebooks.table(view, group, sequences)
            return without_nan(decide_tensors(entry_scores(queries, table, rule, self._reduce), sequences, bound))
        return dispatch.route(
            queries,
            self._codebooks.keys(view),
            group.rows,
            group.owners,
            sequences,
            beta=rule.beta,
            gamma=rule.gamma,
            steps=rule.steps,
            epsilon=rule.epsilon,
            threshold=bound,
            directions=view.radii is None,
        )

    def _shards_keys(self, view: RevisionView) -> bool:
        # In a fitted space every rank has whole queries and whole keys.
        return self._ranks is not None and view.space is None

    def _rivals(self, view: RevisionView, entries: Sequence[int]) -> _Rivals:
        newest: dict[str, tuple[int, int, int]] = {}
        residents = [view.residents[entry] for entry in entries]
        for number, resident in enumerate(residents):
            keep_newest(newest, resident, number)
        rows, owners = [row for _, row, _ in newest.values()], [owner for _, _, owner in newest.values()]
        sequences = [resident.row.sequence for resident in residents]
        columns = _in_one_copy((rows, owners, [*entries, NO_ENTRY], [*sequences, NO_ENTRY]), view.sequences.device)
        return _Rivals(KeyGroup(columns[0], columns[1], None), columns[2], columns[3])

    def _nearest_of(
        self,
        view: RevisionView,
        group: Sequence[TrackedRequest],
        queries: torch.Tensor,
        apart: Sequence[tuple[torch.Tensor, _Rivals]],
    ) -> list[Nearest | None]:
        left, nearest = iter(apart), list[Nearest | None]()
        for query, tracked in zip(queries, group, strict=True):
            own = [next(left) for _ in tracked.subjects.queries]
            nearest.append(self._nearest(query, view, own, tracked.tag.explain) if tracked.tag.explain else None)
        return nearest

    def _nearest(
        self, query: torch.Tensor, view: RevisionView, own: Sequence[tuple[torch.Tensor, _Rivals]], count: int
    ) -> Nearest:
        if view.sequences.shape[0] == 0:
            return view.sequences, view.sequences.float()
        rule, sequences = view.parameters, view.sequences
        scores = self._scores(query, view, rule, view.open, sequences)
        if len(view.anchored):
            # Without refinement: those that do not compete do so with nobody.
            scores = torch.maximum(scores, self._scores(query, view, replace(rule, steps=0), view.anchored, sequences))
        for asked, rivals in own:
            scores[rivals.entries[:-1]] = self._scores(asked, view, rule, rivals.keys, rivals.sequences[:-1])
        if view.radii is not None:
            scores = minus_distance(scores)
        newest_first = view.sequences.argsort(descending=True)
        best = scores[newest_first].sort(descending=True, stable=True)
        return newest_first[best.indices[:count]], best.values[:count]

    def _scores(
        self,
        query: torch.Tensor,
        view: RevisionView,
        rule: MethodParameters,
        group: KeyGroup,
        sequences: torch.Tensor,
    ) -> torch.Tensor:
        """Return each entry's score [E] for one query [W] among a group's keys; -inf without a key in it."""
        if len(group) == 0:
            return torch.full_like(sequences, -torch.inf, dtype=torch.float32)
        table: KeyTable = self._codebooks.table(view, group, sequences)
        reduce = self._reduce if self._shards_keys(view) else whole
        return entry_scores(query[None], table, rule, reduce)[0]


def _in_one_copy(columns: Sequence[Sequence[int]], device: torch.device) -> list[torch.Tensor]:
    """Return columns of whole numbers on the device as int64 tensors, each at a multiple of 16 bytes.

    Triton compiles a kernel anew for a tensor that begins elsewhere.
    """
    numbers: list[int] = []
    starts = []
    for column in columns:
        starts.append(len(numbers))
        numbers += [*column, *([0] * (len(column) % 2))]
    whole_column = on_device(torch.tensor(numbers, dtype=torch.int64), device)
    return [whole_column[start : start + len(column)] for start, column in zip(starts, columns, strict=True)]
