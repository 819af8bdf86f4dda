"""Routing of one step's requests: their queries, and which entry each of them matches.

All requests of a routing space are routed in one call, whatever their codebooks. Open entries compete for every
request of theirs; anchored ones where their subjects occur, with queries of their own.
Shapes: R requests, Q queries, W width of a query.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import torch

from horen_vllm.core.match import NO_ENTRY, KeyTable, Routed, decide_tensors, entry_scores
from horen_vllm.core.presets import MethodParameters
from horen_vllm.core.refine import Reduce, whole
from horen_vllm.kernels import dispatch
from horen_vllm.kernels.groups import RouteGroup, RouteRule
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
    joined_verdicts,
    joint_verdict,
    minus_distance,
    nothing,
    radius_verdict,
    rows_of,
    without_nan,
)
from horen_vllm.plugin.view_groups import ViewGroup, by_space, looked_up

_MOST_QUERIES: Final = 64
"""Queries that are routed in one call."""

Nearest = tuple[torch.Tensor, torch.Tensor]
"""Entries [k] and their scores [k], best first."""


@dataclass(frozen=True, slots=True)
class _Contest:
    """Some queries of one revision, and the keys that compete for them."""

    view: RevisionView
    keys: KeyGroup
    queries: int
    bound: float
    """What a score has to exceed."""
    sure_above: float | None = None
    """As `kernels.route_cpu.route_cpu` says."""

    def group(self) -> RouteGroup:
        """Return it as the kernels take it."""
        rule, keys = self.view.parameters, self.keys
        directions = self.view.radii is None
        own = RouteRule(
            rule.beta, rule.gamma, rule.steps, rule.epsilon, self.bound, directions, sure_above=self.sure_above
        )
        return RouteGroup(self.queries, keys.rows, keys.owners, self.view.sequences, own)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked of the revisions of one routing space.

    Attributes
    ----------
    queries
        [Q, W] float32: the whole query of each request, group after group, then those of their anchored entries.
    apart
        The anchored entries' queries.
    rivals
        The keys that compete for each of those.
    """

    groups: Sequence[ViewGroup]
    queries: torch.Tensor
    apart: Sequence[Ask]
    rivals: Sequence[KeyGroup]

    @property
    def requests(self) -> list[TrackedRequest]:
        return [tracked for group in self.groups for tracked in group.requests]


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
    first_scores
        Whether scores before refinement decide, and are reported, where they are certain. Requests that ask for the
        nearest entries have refined scores in any case, and anchored entries, which may compete with each other.
    """

    def __init__(
        self,
        codebooks: PagedCodebooks,
        ranks: Ranks | None,
        sums_of: Callable[[Sequence[Ask]], torch.Tensor],
        *,
        first_scores: bool = False,
    ) -> None:
        self._codebooks = codebooks
        self._first_scores = first_scores
        self._ranks = ranks
        self._reduce: Reduce = ranks.sum if ranks is not None else whole
        self._sums_of = sums_of

    def route(self, groups: Sequence[ViewGroup]) -> tuple[Verdict, list[Nearest | None]]:
        """Decide for requests, group after group, and list the nearest entries for those that ask.

        Groups of one routing space have to stand side by side (`view_groups.by_view`).
        """
        parts = [self._asked(alike) for alike in by_space(groups)]
        verdict = joined_verdicts([self._verdict(asked) for asked in parts])
        verdict = verdict if self._ranks is None else self._ranks.agree(verdict)
        return verdict, [nearest for asked in parts for nearest in self._nearest_of(asked)]

    def _asked(self, groups: Sequence[ViewGroup]) -> _Asked:
        requests = [tracked for group in groups for tracked in group.requests]
        asks = asks_of(requests)
        queries = make_queries(groups[0].view, asks, self._sums_of(asks), self._reduce)
        apart = asks[len(requests) :]
        return _Asked(groups, queries, apart, _rivals(apart, queries.device))

    def _verdict(self, asked: _Asked) -> Verdict:
        groups, requests = asked.groups, asked.requests
        with_radii = groups[0].view.radii is not None
        contests = [contest for group in groups for contest in self._open_contests(group)] + [
            _Contest(ask.tracked.view, keys, 1, ask.tracked.view.parameters.anchored_threshold)
            for ask, keys in zip(asked.apart, asked.rivals, strict=True)
        ]
        found = self._found(asked.queries, contests)
        of_open = rows_of(found, slice(len(requests)))
        if with_radii:
            return radius_verdict(of_open, looked_up(groups, of_open.best, _radii))
        rules = [tracked.view.parameters for tracked in requests]
        bounds = torch.tensor([[rule.threshold, rule.anchored_threshold] for rule in rules], dtype=torch.float64)
        open_bounds, anchored_bounds = on_device(bounds.T.contiguous(), found.score.device)
        verdict = group_verdict(of_open, open_bounds, _floors_of(groups, of_open.best))
        if not asked.apart:
            return verdict
        places = on_device(_places(requests), found.score.device)
        of_apart = rows_of(found, slice(len(requests), None))
        anchored = best_of(of_apart, places, lambda entries: looked_up(groups, entries, _sequences), anchored_bounds)
        return joint_verdict(verdict, group_verdict(anchored, anchored_bounds, _floors_of(groups, anchored.best)))

    def _open_contests(self, group: ViewGroup) -> Iterator[_Contest]:
        """Yield the contests of a revision's open entries, in the order of its requests."""
        view = group.view
        contest = _Contest(view, view.open, len(group.requests), _open_bound(view))
        if not self._first_scores:
            yield contest
            return
        # How others are reported must not hang on who asks for more.
        for explains, alike in groupby(group.requests, key=lambda tracked: tracked.tag.explain > 0):
            sure_above = None if explains else max(contest.bound, view.highest_floor)
            yield replace(contest, queries=len(list(alike)), sure_above=sure_above)

    def _found(self, queries: torch.Tensor, contests: Sequence[_Contest]) -> Routed:
        """Return the best two entries of each query [Q] among the keys that compete for it."""
        found, first = list[Routed](), 0
        # Few at a time: routing takes memory for each query, of which no profile of vLLM's has seen any.
        for call in _calls(contests):
            count = sum(contest.queries for contest in call)
            found.append(self._among(queries[first : first + count], call))
            first += count
        return joined(found)

    def _among(self, queries: torch.Tensor, contests: Sequence[_Contest]) -> Routed:
        view = contests[0].view
        if not self._shards_keys(view):
            return dispatch.route_mixed(queries, self._codebooks.keys(view), [contest.group() for contest in contests])
        parts = torch.split(queries, [contest.queries for contest in contests])
        return joined([self._among_shards(part, contest) for part, contest in zip(parts, contests, strict=True)])

    def _among_shards(self, queries: torch.Tensor, contest: _Contest) -> Routed:
        """Route queries of which each rank has a part, as of the keys."""
        if len(contest.keys) == 0:
            return nothing(queries)
        view, sequences = contest.view, contest.view.sequences
        table = self._codebooks.table(view, contest.keys, sequences)
        scores = entry_scores(queries, table, view.parameters, self._reduce)
        return without_nan(decide_tensors(scores, sequences, contest.bound))

    def _shards_keys(self, view: RevisionView) -> bool:
        # In a fitted space every rank has whole queries and whole keys.
        return self._ranks is not None and view.space is None

    def _nearest_of(self, asked: _Asked) -> list[Nearest | None]:
        whole_queries, requests = asked.queries, asked.requests
        left = iter(zip(asked.queries[len(requests) :], asked.apart, asked.rivals, strict=True))
        nearest = list[Nearest | None]()
        for query, tracked in zip(whole_queries, requests, strict=False):
            own = [next(left) for _ in tracked.subjects.queries]
            nearest.append(
                self._nearest(query, tracked.view, own, tracked.tag.explain) if tracked.tag.explain else None
            )
        return nearest

    def _nearest(
        self, query: torch.Tensor, view: RevisionView, own: Sequence[tuple[torch.Tensor, Ask, KeyGroup]], count: int
    ) -> Nearest:
        if view.sequences.shape[0] == 0:
            return view.sequences, view.sequences.float()
        rule = view.parameters
        scores = self._scores(query, view, rule, view.open)
        if len(view.anchored):
            # Without refinement: those that do not compete do so with nobody.
            scores = torch.maximum(scores, self._scores(query, view, replace(rule, steps=0), view.anchored))
        for apart, ask, keys in own:
            assert ask.anchored is not None
            entries = on_device(torch.tensor(ask.anchored.entries), scores.device)
            scores[entries] = self._scores(apart, view, rule, keys)[entries]
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
    ) -> torch.Tensor:
        """Return each entry's score [E] for one query [W] among a group's keys; -inf without a key in it."""
        if len(group) == 0:
            return torch.full_like(view.sequences, -torch.inf, dtype=torch.float32)
        table: KeyTable = self._codebooks.table(view, group, view.sequences)
        reduce = self._reduce if self._shards_keys(view) else whole
        return entry_scores(query[None], table, rule, reduce)[0]


def _calls(contests: Sequence[_Contest]) -> Iterator[list[_Contest]]:
    """Yield the contests in order, cut where a call would have too many queries."""
    call, room = list[_Contest](), _MOST_QUERIES
    for contest in contests:
        left = contest.queries
        while left:
            taken = min(left, room)
            call.append(replace(contest, queries=taken))
            left, room = left - taken, room - taken
            if room == 0:
                yield call
                call, room = [], _MOST_QUERIES
    if call:
        yield call


def _rivals(apart: Sequence[Ask], device: torch.device) -> list[KeyGroup]:
    """Return the keys of each query's anchored entries; of identical ones the newest edit's."""
    held = list[dict[str, tuple[int, int, int]]]()
    for ask in apart:
        assert ask.anchored is not None
        newest: dict[str, tuple[int, int, int]] = {}
        for entry in ask.anchored.entries:
            keep_newest(newest, ask.tracked.view.residents[entry], entry)
        held.append(newest)
    numbers = [(row, owner) for newest in held for _, row, owner in newest.values()]
    # One copy for all of them, read where they lie.
    rows, owners = on_device(torch.tensor(numbers, dtype=torch.int64).view(-1, 2).T.contiguous(), device)
    counts = [len(newest) for newest in held]
    parts = zip(torch.split(rows, counts), torch.split(owners, counts), strict=True)
    return [KeyGroup(own_rows, own_owners, None) for own_rows, own_owners in parts]


def _places(requests: Sequence[TrackedRequest]) -> torch.Tensor:
    """Return which of the queries apart are each request's [R, K]; their number where it has no more."""
    counts = [len(tracked.subjects.queries) for tracked in requests]
    places = torch.full((len(requests), max(counts)), sum(counts))
    first = 0
    for row, count in enumerate(counts):
        places[row, :count] = torch.arange(first, first + count)
        first += count
    return places


def _open_bound(view: RevisionView) -> float:
    return view.parameters.threshold if view.radii is None else -torch.inf


def _radii(view: RevisionView, entries: torch.Tensor) -> torch.Tensor:
    assert view.radii is not None
    return view.radii[entries]


def _sequences(view: RevisionView, entries: torch.Tensor) -> torch.Tensor:
    return view.sequences[entries] if len(view.sequences) else torch.full_like(entries, NO_ENTRY)


def _floors_of(groups: Sequence[ViewGroup], best: torch.Tensor) -> torch.Tensor | None:
    """Return the floor of each row's best entry; None where no revision has floors."""
    return None if all(group.view.floors is None for group in groups) else looked_up(groups, best, _floors)


def _floors(view: RevisionView, entries: torch.Tensor) -> torch.Tensor:
    if view.floors is None:
        return torch.full_like(entries, -torch.inf, dtype=torch.float64)
    return view.floors[entries]
