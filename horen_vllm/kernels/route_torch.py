"""Route by torch, for CPUs: the keys are read once, and again only those that may be among the best two.

What decides (refined queries, the scores that are compared and reported) is computed for each row by itself, in an
order that the keys alone fix. First scores only choose which keys are read again, so they may come from products of
whole batches. The derivation is in ``README.md``.
Shapes: B queries, N keys of the revision, P rows of the key buffer, D width, E entries, n keys of a block.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

import torch

from horen_vllm.core.match import NO_ENTRY, Routed, decide_tensors
from horen_vllm.core.refine import unit
from horen_vllm.kernels.bounds import cut_for, lowest, reach_of
from horen_vllm.kernels.groups import RouteGroup
from horen_vllm.kernels.one_pass import LARGE, Book, one_pass

FIRST: Final = 16
"""Keys that are read again at once, the best by first score."""
_WHOLE: Final = 8
"""All keys are read again, for all rows together, where a row needs more than one in so many."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How much was read again for each query.

    Attributes
    ----------
    again
        [B] int64, keys that were read a second time.
    undecided
        [B] bool, whether more than the first few were needed.
    """

    again: torch.Tensor
    undecided: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Found:
    """The best two entries of each row and their scores, [B] each."""

    best: torch.Tensor
    score: torch.Tensor
    second: torch.Tensor
    second_score: torch.Tensor

    def put(self, row: int, other: "_Found") -> None:
        """Replace a row by the only one of `other`."""
        for name in self.__slots__:
            getattr(self, name)[row] = getattr(other, name)[0]

    def routed(self, threshold: float, number_B: torch.Tensor) -> Routed:
        """Return the decisions; a row whose query is not a number has none."""
        if not bool(number_B.all()):
            for entries, scores in ((self.best, self.score), (self.second, self.second_score)):
                entries[~number_B] = NO_ENTRY
                scores[~number_B] = -torch.inf
        entry = torch.where(self.score > threshold, self.best, NO_ENTRY)
        return Routed(entry, self.best, self.score, self.second, self.second_score)


def route_mixed_torch(queries_BD: torch.Tensor, keys_PD: torch.Tensor, groups: Sequence[RouteGroup]) -> Routed:
    """Route group after group; same contract as ``dispatch.route_mixed``."""
    parts = torch.split(queries_BD, [group.queries for group in groups])
    found = [
        route_torch(part, keys_PD, group.key_rows, group.owners, group.sequences, **asdict(group.rule))
        for part, group in zip(parts, groups, strict=True)
    ]
    columns = ([getattr(routed, field.name) for routed in found] for field in fields(Routed))
    return Routed(*map(torch.cat, columns)) if found else nothing(queries_BD)


def route_torch(
    queries_BD: torch.Tensor,
    keys_PD: torch.Tensor,
    key_rows_N: torch.Tensor,
    owners_N: torch.Tensor,
    sequences_E: torch.Tensor,
    *,
    beta: float,
    gamma: float,
    steps: int,
    epsilon: float,
    threshold: float,
    directions: bool = True,
) -> Routed:
    """Route queries as ``core.match.route_tensors`` does, with the keys read where they lie.

    Rows are independent: a row's result does not depend on the others, nor on how many there are. A query that
    is not a number matches nothing.

    Parameters
    ----------
    queries_BD
        [B, D] float32, unrefined.
    keys_PD
        [P, D] float32, the paged buffer. Rows that `key_rows_N` does not name are never read.
    key_rows_N
        [N] int64, the revision's rows of the buffer.
    owners_N
        [N] int64, the entry of each key, in [0, E).
    sequences_E
        [E] int64, distinct edit sequence numbers >= 0.
    beta, gamma, steps, epsilon
        Refinement as in ``core.refine.refine``.
    threshold
        A row matches when its best score is greater.
    directions
        Whether queries and keys are unit vectors. False (GRACE's, of any length): `steps` must be 0.
    """
    routed, _ = route_counted(
        queries_BD, keys_PD, key_rows_N, owners_N, sequences_E,
        beta=beta, gamma=gamma, steps=steps, epsilon=epsilon, threshold=threshold, directions=directions,
    )  # fmt: skip
    return routed


def route_counted(
    queries_BD: torch.Tensor,
    keys_PD: torch.Tensor,
    key_rows_N: torch.Tensor,
    owners_N: torch.Tensor,
    sequences_E: torch.Tensor,
    *,
    beta: float,
    gamma: float,
    steps: int,
    epsilon: float,
    threshold: float,
    directions: bool = True,
) -> tuple[Routed, Shares]:
    """Route as `route_torch` does, and tell what was read again."""
    rows = queries_BD.shape[0]
    if 0 in (rows, key_rows_N.shape[0]):
        return nothing(queries_BD), Shares(torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.bool))
    book = Book(keys_PD, key_rows_N, owners_N, sequences_E)
    if not directions:
        return _decided_by_all(queries_BD, book, threshold)
    number_B = queries_BD.isfinite().all(dim=1)
    refined_BD = queries_BD = torch.where(number_B[:, None], queries_BD, 0.0)
    moving_B = torch.ones_like(number_B)
    scores_BN = book.scores(queries_BD) if steps == 0 else queries_BD.new_empty(0)
    for _ in range(steps):
        queries_BD = refined_BD
        scores_BN, pulled_BD = one_pass(queries_BD, book, beta)
        target_BD = unit(pulled_BD)
        moving_B = moving_B & ((target_BD - queries_BD).norm(dim=-1) > epsilon)
        stepped_BD = unit((1 - gamma) * queries_BD + gamma * target_BD)
        refined_BD = torch.where(moving_B[:, None], stepped_BD, queries_BD)
    chord_B = (refined_BD - queries_BD).norm(dim=-1) if steps else torch.zeros(rows)
    reaches = [reach_of(chord) for chord in chord_B.tolist()]
    found, shares = _decided(refined_BD, scores_BN, reaches, book)
    return found.routed(threshold, number_B), shares


def nothing(queries_BD: torch.Tensor) -> Routed:
    """Return the decisions of a batch with which nothing competed."""
    none_B = torch.full_like(queries_BD[:, 0], NO_ENTRY, dtype=torch.int64)
    low_B = torch.full_like(queries_BD[:, 0], -torch.inf)
    return Routed(none_B, none_B, low_B, none_B, low_B)


def _decided(
    refined_BD: torch.Tensor, scores_BN: torch.Tensor, reaches: Sequence[float], book: Book
) -> tuple[_Found, Shares]:
    """Return the best two entries of queries, each `reaches` away from the one whose first scores these are."""
    keys = scores_BN.shape[1]
    found, cuts = _search(refined_BD, scores_BN, None, reaches, book)
    again, left = [min(FIRST, keys)] * len(cuts), list[int]()
    for row, cut in enumerate(cuts):
        if cut is None:
            continue
        candidates = (scores_BN[row] >= cut).nonzero()[:, 0]
        whole = len(candidates) * _WHOLE > keys
        again[row] += keys if whole else len(candidates)
        if whole:
            left.append(row)
            continue
        query_1D = refined_BD[row : row + 1]
        scores_1n = torch.mv(book.read(book.rows_N[candidates]), query_1D[0])[None]
        found.put(row, _settled(query_1D, scores_1n, candidates, book))
    if left:
        for row, scores in zip(left, book.scores(refined_BD[left]), strict=True):
            found.put(row, _settled(refined_BD[row : row + 1], scores[None], None, book))
    again_B = torch.tensor(again)
    return found, Shares(again_B, again_B > FIRST)


def _settled(query_1D: torch.Tensor, scores_1n: torch.Tensor, keys_n: torch.Tensor | None, book: Book) -> _Found:
    """Return the best two entries of a query whose own scores these are, but for rounding."""
    found, (cut,) = _search(query_1D, scores_1n, keys_n, [0.0], book)
    if cut is None:
        return found
    near = (scores_1n[0] >= cut).nonzero()[:, 0]
    return _best_two(query_1D, (near if keys_n is None else keys_n[near])[None], book)


def _search(
    queries_BD: torch.Tensor,
    scores_Bn: torch.Tensor,
    keys_n: torch.Tensor | None,
    reaches: Sequence[float],
    book: Book,
) -> tuple[_Found, list[float | None]]:
    """Read the first few keys of each query again.

    Returns the best two entries among them and, where others may be better, the first score that those have at least.

    Parameters
    ----------
    keys_n
        Numbers in the revision of the keys that were scored; None for all.
    """
    first = scores_Bn.topk(min(FIRST, scores_Bn.shape[1]), dim=1)
    found = _best_two(queries_BD, first.indices if keys_n is None else keys_n[first.indices], book)
    if first.indices.shape[1] == scores_Bn.shape[1]:
        return found, [None] * len(scores_Bn)
    cuts: list[float | None] = []
    rows = zip(found.second.tolist(), found.second_score.tolist(), first.values[:, -1].tolist(), reaches, strict=True)
    for row, (second, needed, last, reach) in enumerate(rows):
        if second == NO_ENTRY:
            needed = _kept_by_another(scores_Bn[row], keys_n, found, row, reach, book)  # noqa: PLW2901
        cut = cut_for(needed, reach)
        cuts.append(cut if last >= cut else None)
    return found, cuts


def _kept_by_another(
    scores_n: torch.Tensor, keys_n: torch.Tensor | None, found: _Found, row: int, reach: float, book: Book
) -> float:
    """Return what some key of another entry than the best keeps at least; the best score where there is none."""
    owners = book.owners_N if keys_n is None else book.owners_N[keys_n]
    others = float(scores_n.masked_fill(owners == found.best[row], -torch.inf).max())
    return lowest(others, reach) if others > -torch.inf else float(found.score[row])


def _best_two(queries_BD: torch.Tensor, keys_Bk: torch.Tensor, book: Book) -> _Found:
    """Return the best two entries of each query among some keys of its own."""
    size = max(1, LARGE // (keys_Bk.shape[1] * queries_BD.shape[1]))
    parts = zip(torch.split(queries_BD, size), torch.split(keys_Bk, size), strict=True)
    score_Bk = torch.cat([_own_scores(queries, keys, book) for queries, keys in parts])
    owners_Bk = book.owners_N[keys_Bk]
    sequences_Bk = book.sequences_E[owners_Bk]
    best, score = _newest_best(score_Bk, sequences_Bk, owners_Bk)
    score_Bk = score_Bk.masked_fill(owners_Bk == best[:, None], -torch.inf)
    second, second_score = _newest_best(score_Bk, sequences_Bk, owners_Bk)
    return _Found(best, score, torch.where(torch.isneginf(second_score), NO_ENTRY, second), second_score)


def _own_scores(queries_BD: torch.Tensor, keys_Bk: torch.Tensor, book: Book) -> torch.Tensor:
    # Not a matrix product: equal keys have to score equal wherever they stand.
    rows_BkD = book.keys_PD.index_select(0, book.rows_N[keys_Bk.flatten()]).view(*keys_Bk.shape, -1)
    return rows_BkD.mul_(queries_BD[:, None]).sum(dim=-1)


def _newest_best(
    score_Bk: torch.Tensor, sequences_Bk: torch.Tensor, owners_Bk: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    score_B1 = score_Bk.amax(dim=1, keepdim=True)
    place_B1 = torch.where(score_Bk == score_B1, sequences_Bk, -1).argmax(dim=1, keepdim=True)
    return owners_Bk.gather(1, place_B1)[:, 0], score_B1[:, 0]


def _decided_by_all(queries_BD: torch.Tensor, book: Book, threshold: float) -> tuple[Routed, Shares]:
    """Decide by the scores of all keys, of any length: how far a first score may be off is not known then."""
    copies = [query.clone() for query in queries_BD]
    rows = [torch.cat([torch.mv(block, query) for _, block in book.blocks(book.block)]) for query in copies]
    scores_BN = torch.stack(rows)
    scores_BN = scores_BN.masked_fill(scores_BN.isnan(), -torch.inf)
    scores_BE = scores_BN.new_full((len(rows), len(book.sequences_E)), -torch.inf)
    scores_BE.scatter_reduce_(1, book.owners_N.expand_as(scores_BN), scores_BN, reduce="amax")
    routed = decide_tensors(scores_BE, book.sequences_E, threshold)
    best = torch.where(torch.isneginf(routed.score), NO_ENTRY, routed.best)
    again = torch.zeros(len(rows), dtype=torch.int64)
    routed = Routed(routed.entry, best, routed.score, routed.runner_up, routed.runner_up_score)
    return routed, Shares(again, again > 0)
