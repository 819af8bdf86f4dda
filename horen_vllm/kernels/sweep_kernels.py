"""Kernels of the one-pass route: scores and softmax sums from one reading of the keys, and which keys may still win.

Queries of several groups (`groups.RouteTable`) in one launch. Shapes of each group: B queries, N keys, D width, E
entries, C chunks, K parts of a shortlist. What belongs to a query and its keys lies group after group.
"""

import triton
import triton.language as tl

from horen_vllm.kernels.bounds import SLACK
from horen_vllm.kernels.route_kernels import _LOW, _best, _best_of_blocks
from horen_vllm.kernels.table_kernels import (
    AT_CHUNK,
    AT_CHUNKS,
    AT_KEY,
    AT_KEYS,
    AT_PART,
    AT_PARTS,
    AT_QUERY,
    AT_SCORE,
    AT_SEQUENCE,
    AT_SIZE,
    RULE_BETA,
    count_of,
    place_of,
    row_of,
    rule_of,
    share_of,
)

_SLACK = tl.constexpr(SLACK)


@triton.jit(do_not_specialize=["num_groups"], do_not_specialize_on_alignment=["p_key_rows"])
def sweep_kernel(
    p_queries: tl.tensor,
    p_keys: tl.tensor,
    p_key_rows: tl.tensor,
    p_table: tl.tensor,
    p_rules: tl.tensor,
    p_scores: tl.tensor,
    p_chunk_max: tl.tensor,
    p_pull: tl.tensor,
    p_open: tl.tensor,
    key_stride: tl.tensor,
    num_groups: tl.tensor,
    D: tl.constexpr,
    SETTLED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Write one chunk's scores [B, N], maximum m [B, C] and ``sum exp(beta (s - m)) k`` [B, C, D].

    A key is loaded once and stays in registers, whole, for both. With SETTLED nothing is done for queries that are not
    `open` [B]. Grid: (chunks of all queries,).
    """
    group, row, i_chunk = share_of(p_table, num_groups, tl.program_id(0), AT_CHUNK)
    if SETTLED:  # noqa: SIM102 - decided when it is compiled
        if tl.load(p_open + place_of(p_table, num_groups, group, AT_QUERY) + row) == 0:
            return
    num_keys = count_of(p_table, num_groups, group, AT_KEYS)
    chunk = count_of(p_table, num_groups, group, AT_SIZE)
    beta = rule_of(p_rules, num_groups, group, RULE_BETA)
    i_b = place_of(p_table, num_groups, group, AT_QUERY) + row
    p_own_rows = p_key_rows + place_of(p_table, num_groups, group, AT_KEY)
    p_own_scores = p_scores + place_of(p_table, num_groups, group, AT_SCORE) + row.to(tl.int64) * num_keys
    i_d = tl.arange(0, BLOCK_D)
    b_query = tl.load(p_queries + i_b * D + i_d, mask=i_d < D, other=0.0)
    b_pull = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    highest = tl.max(tl.full([BLOCK_N], _LOW, dtype=tl.float32), axis=0)
    for first in range(i_chunk * chunk, tl.minimum((i_chunk + 1) * chunk, num_keys), BLOCK_N):
        i_n = first + tl.arange(0, BLOCK_N)
        listed = i_n < num_keys
        rows = tl.load(p_own_rows + i_n, mask=listed, other=0).to(tl.int64)
        mask = listed[:, None] & (i_d < D)[None, :]
        b_keys = tl.load(p_keys + rows[:, None] * key_stride + i_d[None, :], mask=mask, other=0.0)
        b_scores = tl.sum(b_keys * b_query[None, :], axis=1)
        is_number = b_scores == b_scores  # noqa: PLR0124 - false for NaN alone
        b_scores = tl.where(listed & is_number, b_scores, _LOW)
        tl.store(p_own_scores + i_n, b_scores, mask=listed)
        top = tl.maximum(highest, tl.max(b_scores, axis=0))
        b_pull = b_pull * tl.exp(beta * (highest - top)) + tl.exp(beta * (b_scores - top))[:, None] * b_keys
        highest = top
    num_chunks = count_of(p_table, num_groups, group, AT_CHUNKS)
    at = place_of(p_table, num_groups, group, AT_CHUNK) + row * num_chunks + i_chunk
    tl.store(p_chunk_max + at, highest)
    tl.store(p_pull + at * D + i_d, tl.sum(b_pull, axis=0), mask=i_d < D)


@triton.jit
def _parts(b_numbers: tl.tensor, PART: tl.constexpr) -> tl.tensor:
    """Split float32 into three bfloat16, held as PART, whose sum differs by less than one part in 2^21."""
    b_first = b_numbers.to(tl.bfloat16).to(tl.float32)
    b_rest = b_numbers - b_first
    b_second = b_rest.to(tl.bfloat16).to(tl.float32)
    b_third = (b_rest - b_second).to(tl.bfloat16).to(tl.float32)
    return b_first.to(PART), b_second.to(PART), b_third.to(PART)


@triton.jit(do_not_specialize=["num_queries", "num_keys"], do_not_specialize_on_alignment=["p_key_rows"])
def matrix_kernel(
    p_queries: tl.tensor,
    p_keys: tl.tensor,
    p_key_rows: tl.tensor,
    p_scores: tl.tensor,
    key_stride: tl.tensor,
    num_queries: tl.tensor,
    num_keys: tl.tensor,
    D: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PART: tl.constexpr,
) -> None:
    """Write first scores [B, N] from products of bfloat16 parts. Grid: (N blocks, B blocks)."""
    i_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    i_b = (tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    listed, asked = i_n < num_keys, i_b < num_queries
    rows = tl.load(p_key_rows + i_n, mask=listed, other=0).to(tl.int64)
    b_scores = tl.zeros([BLOCK_B, BLOCK_N], dtype=tl.float32)
    b_small = tl.zeros([BLOCK_B, BLOCK_N], dtype=tl.float32)
    for first in range(0, D, BLOCK_D):
        i_d = first + tl.arange(0, BLOCK_D)
        inside = (i_d < D)[None, :]
        b_query = tl.load(p_queries + i_b[:, None] * D + i_d[None, :], mask=asked[:, None] & inside, other=0.0)
        b_keys = tl.load(p_keys + rows[:, None] * key_stride + i_d[None, :], mask=listed[:, None] & inside, other=0.0)
        q_1, q_2, q_3 = _parts(b_query, PART)
        k_1, k_2, k_3 = _parts(b_keys, PART)
        # The small products apart, or the large ones would round them away.
        b_small = tl.dot(q_1, tl.trans(k_3), b_small)
        b_small = tl.dot(q_2, tl.trans(k_2), b_small)
        b_small = tl.dot(q_3, tl.trans(k_1), b_small)
        b_small = tl.dot(q_1, tl.trans(k_2), b_small)
        b_small = tl.dot(q_2, tl.trans(k_1), b_small)
        b_scores = tl.dot(q_1, tl.trans(k_1), b_scores)
    b_scores += b_small
    is_number = b_scores == b_scores  # noqa: PLR0124 - false for NaN alone
    at = p_scores + i_b[:, None] * num_keys + i_n[None, :]
    tl.store(at, tl.where(is_number, b_scores, _LOW), mask=asked[:, None] & listed[None, :])


@triton.jit(do_not_specialize=["num_groups"], do_not_specialize_on_alignment=["p_owners", "p_sequences"])
def shortlist_kernel(
    p_scores: tl.tensor,
    p_owners: tl.tensor,
    p_sequences: tl.tensor,
    p_table: tl.tensor,
    p_best_score: tl.tensor,
    p_best_owner: tl.tensor,
    num_groups: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Write two different entries [B, K, 2] that are the best of one part by first scores [B, N].

    Grid: (parts of all queries,).
    """
    group, row, part = share_of(p_table, num_groups, tl.program_id(0), AT_PART)
    num_keys = count_of(p_table, num_groups, group, AT_KEYS)
    p_own_scores = p_scores + place_of(p_table, num_groups, group, AT_SCORE) + row.to(tl.int64) * num_keys
    i_n = part * BLOCK + tl.arange(0, BLOCK)
    b_scores = tl.load(p_own_scores + i_n, mask=i_n < num_keys, other=_LOW)
    p_own_owners = p_owners + place_of(p_table, num_groups, group, AT_KEY)
    b_owners = tl.load(p_own_owners + i_n, mask=b_scores > _LOW, other=-1)
    p_sequences += place_of(p_table, num_groups, group, AT_SEQUENCE)
    b_sequences = tl.load(p_sequences + b_owners, mask=b_scores > _LOW, other=-1)
    score, _, owner = _best(b_scores, b_sequences, b_owners)
    others = b_owners != owner
    second_score, _, second = _best(
        tl.where(others, b_scores, _LOW), tl.where(others, b_sequences, -1), tl.where(others, b_owners, -1)
    )
    num_parts = count_of(p_table, num_groups, group, AT_PARTS)
    at = (place_of(p_table, num_groups, group, AT_PART) + row * num_parts + part) * 2
    tl.store(p_best_score + at, score)
    tl.store(p_best_owner + at, owner)
    tl.store(p_best_score + at + 1, second_score)
    tl.store(p_best_owner + at + 1, second)


@triton.jit
def _turned_away(cosine: tl.tensor, chord: tl.tensor) -> tl.tensor:
    """Return ``cos(arccos(cosine) + reach)``, at least -1, of a reach whose chord is given, rounded down."""
    below = tl.maximum(cosine - _SLACK, -1.0)
    turn = 1.0 - 0.5 * chord * chord
    across = chord * tl.sqrt(tl.maximum(1.0 - 0.25 * chord * chord, 0.0))
    turned = below * turn - tl.sqrt(tl.maximum(1.0 - below * below, 0.0)) * across
    return tl.where(below > -turn, turned, -1.0)


@triton.jit(do_not_specialize=["num_groups"], do_not_specialize_on_alignment=["p_sequences"])
def cut_kernel(
    p_best_score: tl.tensor,
    p_best_owner: tl.tensor,
    p_sequences: tl.tensor,
    p_table: tl.tensor,
    p_chord: tl.tensor,
    p_cut: tl.tensor,
    p_open: tl.tensor,
    num_groups: tl.tensor,
    SETTLED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Write the first score [B] below which no key can be among the best two entries. Grid: (all queries,).

    With SETTLED no key can for queries that are not `open` [B].
    """
    group, row, i_b = row_of(p_table, num_groups, tl.program_id(0))
    num_parts = count_of(p_table, num_groups, group, AT_PARTS)
    num_candidates = 2 * num_parts
    first = 2 * (place_of(p_table, num_groups, group, AT_PART) + row * num_parts)
    p_scores, p_owners = p_best_score + first, p_best_owner + first
    p_sequences += place_of(p_table, num_groups, group, AT_SEQUENCE)
    score, _, best = _best_of_blocks(p_scores, p_owners, p_sequences, num_candidates, -1, BLOCK)
    second_score, _, second = _best_of_blocks(p_scores, p_owners, p_sequences, num_candidates, best, BLOCK)
    chord = tl.load(p_chord + i_b)
    # The entries' own later scores are at least `needed`; a key that cannot get there is out.
    needed = _turned_away(tl.where(second != -1, second_score, score), chord)
    cut = _turned_away(needed, chord) - _SLACK
    cut = tl.where(needed > -1.0, cut, _LOW)
    if SETTLED:
        cut = tl.where(tl.load(p_open + i_b) == 0, float("inf"), cut)
    tl.store(p_cut + i_b, cut)
