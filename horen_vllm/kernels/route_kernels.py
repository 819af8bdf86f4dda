"""The kernels of `kernels.route`: scores, refinement step by step, and the best two entries.

Queries of several groups (`groups.RouteTable`) in one launch. Shapes of each group: B queries, N keys, D width, E
entries, K blocks, C chunks. What belongs to a query and its keys lies group after group.
"""

import triton
import triton.language as tl

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.kernels.table_kernels import (
    AT_BLOCK,
    AT_BLOCKS,
    AT_CHUNK,
    AT_CHUNKS,
    AT_KEY,
    AT_KEYS,
    AT_QUERY,
    AT_SCORE,
    AT_SEQUENCE,
    AT_SIZE,
    RULE_BETA,
    RULE_EPSILON,
    RULE_GAMMA,
    RULE_KEEP,
    RULE_THRESHOLD,
    count_of,
    place_of,
    row_of,
    rule_of,
    share_of,
)

_NO_ENTRY = tl.constexpr(NO_ENTRY)
_LOW = tl.constexpr(float("-inf"))
_LOWEST = tl.constexpr(-(2**63))
_CHORD_SLACK = tl.constexpr(1e-5)


@triton.jit
def _block_scores(
    p_query: tl.tensor,
    p_keys: tl.tensor,
    p_key_rows: tl.tensor,
    key_stride: tl.tensor,
    i_n: tl.tensor,
    listed: tl.tensor,
    width: tl.tensor,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> tl.tensor:
    # Multiply and add, not tl.dot: the order of the sum is then the same for every key, and equal keys score equal.
    rows = tl.load(p_key_rows + i_n, mask=listed, other=0).to(tl.int64)
    b_products = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for first in range(0, width, BLOCK_D):
        i_d = first + tl.arange(0, BLOCK_D)
        b_query = tl.load(p_query + i_d, mask=i_d < width, other=0.0)
        mask = listed[:, None] & (i_d < width)[None, :]
        b_keys = tl.load(p_keys + rows[:, None] * key_stride + i_d[None, :], mask=mask, other=0.0)
        b_products += b_keys * b_query[None, :]
    b_scores = tl.sum(b_products, axis=1)
    is_number = b_scores == b_scores  # noqa: PLR0124 - false for NaN alone
    return tl.where(listed & is_number, b_scores, _LOW)


@triton.jit(do_not_specialize=["num_groups"], do_not_specialize_on_alignment=["p_key_rows"])
def score_kernel(
    p_queries: tl.tensor,
    p_keys: tl.tensor,
    p_key_rows: tl.tensor,
    p_table: tl.tensor,
    p_scores: tl.tensor,
    p_block_max: tl.tensor,
    key_stride: tl.tensor,
    num_groups: tl.tensor,
    D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Write the scores [B, N] of one block of keys and their maximum [B, K]. Grid: (blocks of all queries,)."""
    group, row, block = share_of(p_table, num_groups, tl.program_id(0), AT_BLOCK)
    num_keys = count_of(p_table, num_groups, group, AT_KEYS)
    i_b = place_of(p_table, num_groups, group, AT_QUERY) + row
    p_own_rows = p_key_rows + place_of(p_table, num_groups, group, AT_KEY)
    p_own_scores = p_scores + place_of(p_table, num_groups, group, AT_SCORE) + row.to(tl.int64) * num_keys
    i_n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    listed = i_n < num_keys
    b_scores = _block_scores(p_queries + i_b * D, p_keys, p_own_rows, key_stride, i_n, listed, D, BLOCK_N, BLOCK_D)
    tl.store(p_own_scores + i_n, b_scores, mask=listed)
    num_blocks = count_of(p_table, num_groups, group, AT_BLOCKS)
    at = place_of(p_table, num_groups, group, AT_BLOCK) + row * num_blocks + block
    tl.store(p_block_max + at, tl.max(b_scores, axis=0))


@triton.jit(do_not_specialize=["num_groups"], do_not_specialize_on_alignment=["p_key_rows"])
def pull_kernel(
    p_scores: tl.tensor,
    p_block_max: tl.tensor,
    p_keys: tl.tensor,
    p_key_rows: tl.tensor,
    p_table: tl.tensor,
    p_rules: tl.tensor,
    p_chunk_max: tl.tensor,
    p_pull: tl.tensor,
    p_open: tl.tensor,
    key_stride: tl.tensor,
    num_groups: tl.tensor,
    D: tl.constexpr,
    SETTLED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Write one chunk's share [B, C, D] of ``sum exp(beta (s - max)) k``, and the maximum [B, C] of all keys.

    For keys too wide for `sweep_kernel`. With SETTLED nothing is done for queries that are not `open` [B]; so in the
    kernels below. Grid: (chunks of all queries * D blocks,).
    """
    group, row, i_chunk = share_of(p_table, num_groups, tl.program_id(0) // tl.cdiv(D, BLOCK_D), AT_CHUNK)
    if SETTLED:  # noqa: SIM102 - decided when it is compiled
        if tl.load(p_open + place_of(p_table, num_groups, group, AT_QUERY) + row) == 0:
            return
    num_keys = count_of(p_table, num_groups, group, AT_KEYS)
    num_blocks = count_of(p_table, num_groups, group, AT_BLOCKS)
    chunk = count_of(p_table, num_groups, group, AT_SIZE)
    beta = rule_of(p_rules, num_groups, group, RULE_BETA)
    p_own_rows = p_key_rows + place_of(p_table, num_groups, group, AT_KEY)
    p_own_scores = p_scores + place_of(p_table, num_groups, group, AT_SCORE) + row.to(tl.int64) * num_keys
    p_own_max = p_block_max + place_of(p_table, num_groups, group, AT_BLOCK) + row * num_blocks
    i_d = (tl.program_id(0) % tl.cdiv(D, BLOCK_D)) * BLOCK_D + tl.arange(0, BLOCK_D)
    b_max = tl.full([BLOCK_K], _LOW, dtype=tl.float32)
    for first in range(0, num_blocks, BLOCK_K):
        i_k = first + tl.arange(0, BLOCK_K)
        b_max = tl.maximum(b_max, tl.load(p_own_max + i_k, mask=i_k < num_blocks, other=_LOW))
    highest = tl.max(b_max, axis=0)
    b_pull = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for first in range(i_chunk * chunk, tl.minimum((i_chunk + 1) * chunk, num_keys), BLOCK_N):
        i_n = first + tl.arange(0, BLOCK_N)
        listed = i_n < num_keys
        rows = tl.load(p_own_rows + i_n, mask=listed, other=0).to(tl.int64)
        b_scores = tl.load(p_own_scores + i_n, mask=listed, other=_LOW)
        b_exp = tl.exp(beta * (b_scores - highest))
        mask = listed[:, None] & (i_d < D)[None, :]
        b_keys = tl.load(p_keys + rows[:, None] * key_stride + i_d[None, :], mask=mask, other=0.0)
        b_pull += b_exp[:, None] * b_keys
    num_chunks = count_of(p_table, num_groups, group, AT_CHUNKS)
    at = place_of(p_table, num_groups, group, AT_CHUNK) + row * num_chunks + i_chunk
    tl.store(p_chunk_max + at, highest)
    tl.store(p_pull + at * D + i_d, tl.sum(b_pull, axis=0), mask=i_d < D)


@triton.jit(do_not_specialize=["num_groups"])
def attractor_kernel(
    p_pull: tl.tensor,
    p_chunk_max: tl.tensor,
    p_table: tl.tensor,
    p_rules: tl.tensor,
    p_attractor: tl.tensor,
    p_open: tl.tensor,
    num_groups: tl.tensor,
    D: tl.constexpr,
    SETTLED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Merge the chunks' shares into ``T(q)`` [B, D] (Theorem 2.1) times a factor. Grid: (D blocks, all queries)."""
    group, row, i_b = row_of(p_table, num_groups, tl.program_id(1))
    if SETTLED:  # noqa: SIM102 - decided when it is compiled
        if tl.load(p_open + i_b) == 0:
            return
    num_chunks = count_of(p_table, num_groups, group, AT_CHUNKS)
    beta = rule_of(p_rules, num_groups, group, RULE_BETA)
    i_first = place_of(p_table, num_groups, group, AT_CHUNK) + row * num_chunks
    i_d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    b_max = tl.full([BLOCK_C], _LOW, dtype=tl.float32)
    for first in range(0, num_chunks, BLOCK_C):
        i_c = first + tl.arange(0, BLOCK_C)
        b_max = tl.maximum(b_max, tl.load(p_chunk_max + i_first + i_c, mask=i_c < num_chunks, other=_LOW))
    highest = tl.max(b_max, axis=0)
    b_pull = tl.zeros([BLOCK_C, BLOCK_D], dtype=tl.float32)
    for first in range(0, num_chunks, BLOCK_C):
        i_c = first + tl.arange(0, BLOCK_C)
        b_own = tl.load(p_chunk_max + i_first + i_c, mask=i_c < num_chunks, other=_LOW)
        mask = (i_c < num_chunks)[:, None] & (i_d < D)[None, :]
        b_share = tl.load(p_pull + (i_first + i_c)[:, None] * D + i_d[None, :], mask=mask, other=0.0)
        b_pull += tl.exp(beta * (b_own - highest))[:, None] * b_share
    tl.store(p_attractor + i_b * D + i_d, tl.sum(b_pull, axis=0), mask=i_d < D)


@triton.jit(do_not_specialize=["num_groups"])
def step_kernel(
    p_queries: tl.tensor,
    p_attractor: tl.tensor,
    p_table: tl.tensor,
    p_rules: tl.tensor,
    p_chord: tl.tensor,
    p_open: tl.tensor,
    num_groups: tl.tensor,
    D: tl.constexpr,
    SETTLED: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Take one damped step (eq. 3) in place unless the row is at its attractor (Alg. 1), and write its length.

    Grid: (all queries,).
    """
    group, _, i_b = row_of(p_table, num_groups, tl.program_id(0))
    if SETTLED:  # noqa: SIM102 - decided when it is compiled
        if tl.load(p_open + i_b) == 0:
            return
    keep = rule_of(p_rules, num_groups, group, RULE_KEEP)
    gamma = rule_of(p_rules, num_groups, group, RULE_GAMMA)
    epsilon = rule_of(p_rules, num_groups, group, RULE_EPSILON)
    b_square = tl.zeros([BLOCK_D], dtype=tl.float32)
    for first in range(0, D, BLOCK_D):
        i_d = first + tl.arange(0, BLOCK_D)
        b_pull = tl.load(p_attractor + i_b * D + i_d, mask=i_d < D, other=0.0)
        b_square += b_pull * b_pull
    length = tl.maximum(tl.sqrt(tl.sum(b_square, axis=0)), 1e-12)
    b_apart = tl.zeros([BLOCK_D], dtype=tl.float32)
    b_square = tl.zeros([BLOCK_D], dtype=tl.float32)
    for first in range(0, D, BLOCK_D):
        i_d = first + tl.arange(0, BLOCK_D)
        b_target = tl.load(p_attractor + i_b * D + i_d, mask=i_d < D, other=0.0) / length
        b_query = tl.load(p_queries + i_b * D + i_d, mask=i_d < D, other=0.0)
        b_apart += (b_target - b_query) * (b_target - b_query)
        b_mixed = keep * b_query + gamma * b_target
        b_square += b_mixed * b_mixed
    norm = tl.maximum(tl.sqrt(tl.sum(b_square, axis=0)), 1e-12)
    # A row that has stopped stops again: its query, and so its attractor, is the same to the bit.
    moving = tl.sqrt(tl.sum(b_apart, axis=0)) > epsilon
    b_apart = tl.zeros([BLOCK_D], dtype=tl.float32)
    for first in range(0, D, BLOCK_D):
        i_d = first + tl.arange(0, BLOCK_D)
        b_target = tl.load(p_attractor + i_b * D + i_d, mask=i_d < D, other=0.0) / length
        b_query = tl.load(p_queries + i_b * D + i_d, mask=i_d < D, other=0.0)
        b_mixed = tl.where(moving, (keep * b_query + gamma * b_target) / norm, b_query)
        b_apart += (b_mixed - b_query) * (b_mixed - b_query)
        tl.store(p_queries + i_b * D + i_d, b_mixed, mask=i_d < D)
    # Rounded up: what follows from it must hold for the exact length.
    chord = tl.sqrt(tl.sum(b_apart, axis=0))
    tl.store(p_chord + i_b, tl.where(chord > 0.0, chord + _CHORD_SLACK, 0.0))


@triton.jit
def _best(b_scores: tl.tensor, b_sequences: tl.tensor, b_owners: tl.tensor) -> tl.tensor:
    # Of equal scores the higher sequence wins; sequences are distinct between owners, so one owner is left.
    score = tl.max(b_scores, axis=0)
    sequence = tl.max(tl.where(b_scores == score, b_sequences, _LOWEST), axis=0)
    owner = tl.max(tl.where((b_scores == score) & (b_sequences == sequence), b_owners, _NO_ENTRY), axis=0)
    return score, sequence, owner


@triton.jit(
    do_not_specialize=["first_item", "num_groups"],
    do_not_specialize_on_alignment=["p_key_rows", "p_owners", "p_sequences"],
)
def rank_kernel(
    p_queries: tl.tensor,
    p_keys: tl.tensor,
    p_key_rows: tl.tensor,
    p_owners: tl.tensor,
    p_sequences: tl.tensor,
    p_table: tl.tensor,
    p_best_score: tl.tensor,
    p_best_owner: tl.tensor,
    p_first: tl.tensor,
    p_cut: tl.tensor,
    key_stride: tl.tensor,
    first_item: tl.tensor,
    num_groups: tl.tensor,
    D: tl.constexpr,
    CHOSEN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Write the best two entries [B, K, 2] of one block of keys, two different ones. Grid: (blocks of queries,).

    With CHOSEN only keys whose first score [B, N] reaches the cut [B] are read. Blocks are counted from `first_item`.
    """
    group, row, block = share_of(p_table, num_groups, first_item + tl.program_id(0), AT_BLOCK)
    num_keys = count_of(p_table, num_groups, group, AT_KEYS)
    i_b = place_of(p_table, num_groups, group, AT_QUERY) + row
    i_key = place_of(p_table, num_groups, group, AT_KEY)
    i_n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    listed = i_n < num_keys
    width = D
    if CHOSEN:
        p_own_first = p_first + place_of(p_table, num_groups, group, AT_SCORE) + row.to(tl.int64) * num_keys
        b_first = tl.load(p_own_first + i_n, mask=listed, other=_LOW)
        listed = listed & (b_first >= tl.load(p_cut + i_b))
        width = tl.where(tl.max(listed.to(tl.int32), axis=0) > 0, D, 0)
    b_scores = _block_scores(
        p_queries + i_b * D, p_keys, p_key_rows + i_key, key_stride, i_n, listed, width, BLOCK_N, BLOCK_D
    )
    found = b_scores > _LOW
    b_owners = tl.load(p_owners + i_key + i_n, mask=found, other=_NO_ENTRY)
    i_sequence = place_of(p_table, num_groups, group, AT_SEQUENCE)
    b_sequences = tl.load(p_sequences + i_sequence + b_owners, mask=found, other=_LOWEST)
    score, _, owner = _best(b_scores, b_sequences, b_owners)
    others = b_owners != owner
    second_score, _, second = _best(
        tl.where(others, b_scores, _LOW),
        tl.where(others, b_sequences, _LOWEST),
        tl.where(others, b_owners, _NO_ENTRY),
    )
    num_blocks = count_of(p_table, num_groups, group, AT_BLOCKS)
    at = (place_of(p_table, num_groups, group, AT_BLOCK) + row * num_blocks + block) * 2
    tl.store(p_best_score + at, score)
    tl.store(p_best_owner + at, owner)
    tl.store(p_best_score + at + 1, second_score)
    tl.store(p_best_owner + at + 1, second)


@triton.jit
def _best_of_blocks(
    p_best_score: tl.tensor,
    p_best_owner: tl.tensor,
    p_sequences: tl.tensor,
    num_candidates: tl.tensor,
    without: tl.tensor,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    b_score = tl.full([BLOCK], _LOW, dtype=tl.float32)
    b_sequence = tl.full([BLOCK], _LOWEST, dtype=tl.int64)
    b_owner = tl.full([BLOCK], _NO_ENTRY, dtype=tl.int64)
    for first in range(0, num_candidates, BLOCK):
        i_c = first + tl.arange(0, BLOCK)
        owner = tl.load(p_best_owner + i_c, mask=i_c < num_candidates, other=_NO_ENTRY)
        found = (owner != _NO_ENTRY) & (owner != without)
        score = tl.load(p_best_score + i_c, mask=found, other=_LOW)
        sequence = tl.load(p_sequences + owner, mask=found, other=_LOWEST)
        better = (score > b_score) | ((score == b_score) & (sequence > b_sequence))
        b_score = tl.where(better, score, b_score)
        b_sequence = tl.where(better, sequence, b_sequence)
        b_owner = tl.where(better, tl.where(found, owner, _NO_ENTRY), b_owner)
    return _best(b_score, b_sequence, b_owner)


@triton.jit(do_not_specialize=["num_groups"], do_not_specialize_on_alignment=["p_sequences"])
def merge_kernel(
    p_best_score: tl.tensor,
    p_best_owner: tl.tensor,
    p_sequences: tl.tensor,
    p_table: tl.tensor,
    p_rules: tl.tensor,
    p_entry: tl.tensor,
    p_best: tl.tensor,
    p_score: tl.tensor,
    p_second: tl.tensor,
    p_second_score: tl.tensor,
    p_open: tl.tensor,
    num_groups: tl.tensor,
    SETTLED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Write a row's decision from the blocks' candidates [B, 2K]. Grid: (all queries,)."""
    group, row, i_b = row_of(p_table, num_groups, tl.program_id(0))
    if SETTLED:  # noqa: SIM102 - decided when it is compiled
        if tl.load(p_open + i_b) == 0:
            return
    num_blocks = count_of(p_table, num_groups, group, AT_BLOCKS)
    num_candidates = 2 * num_blocks
    first = 2 * (place_of(p_table, num_groups, group, AT_BLOCK) + row * num_blocks)
    p_scores, p_owners = p_best_score + first, p_best_owner + first
    p_sequences += place_of(p_table, num_groups, group, AT_SEQUENCE)
    threshold = rule_of(p_rules, num_groups, group, RULE_THRESHOLD)
    score, _, best = _best_of_blocks(p_scores, p_owners, p_sequences, num_candidates, _NO_ENTRY, BLOCK)
    second_score, _, second = _best_of_blocks(p_scores, p_owners, p_sequences, num_candidates, best, BLOCK)
    tl.store(p_entry + i_b, tl.where(score > threshold, best, _NO_ENTRY))
    tl.store(p_best + i_b, best)
    tl.store(p_score + i_b, score)
    tl.store(p_second + i_b, second)
    tl.store(p_second_score + i_b, second_score)
