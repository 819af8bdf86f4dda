"""The kernels of route's form by scores alone: which queries are certain without their attractor.

Names as in `route_kernels`; K parts of a shortlist. The derivation is in ``README.md``.
"""

import triton
import triton.language as tl

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.kernels.bounds import MOST_BETA, SLACK
from horen_vllm.kernels.route_kernels import _best_of_blocks
from horen_vllm.kernels.table_kernels import (
    AT_KEYS,
    AT_PART,
    AT_PARTS,
    AT_SCORE,
    AT_SEQUENCE,
    RULE_BETA,
    RULE_GAMMA,
    RULE_KEEP,
    RULE_SURE_ABOVE,
    RULE_THRESHOLD,
    count_of,
    place_of,
    row_of,
    rule_of,
    share_of,
)

_LOW = tl.constexpr(float("-inf"))
_NO_ENTRY = tl.constexpr(NO_ENTRY)
_SLACK = tl.constexpr(SLACK)
_MOST_BETA = tl.constexpr(MOST_BETA)


@triton.jit(do_not_specialize=["num_groups"])
def weigh_kernel(
    p_scores: tl.tensor,
    p_table: tl.tensor,
    p_rules: tl.tensor,
    p_weighed: tl.tensor,
    num_groups: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Write the highest score, ``sum e`` and ``sum e s`` [B, K, 3] of one part, ``e = exp(beta (s - highest))``.

    Grid: (parts of all queries,).
    """
    group, row, part = share_of(p_table, num_groups, tl.program_id(0), AT_PART)
    num_keys = count_of(p_table, num_groups, group, AT_KEYS)
    beta = rule_of(p_rules, num_groups, group, RULE_BETA)
    p_own_scores = p_scores + place_of(p_table, num_groups, group, AT_SCORE) + row.to(tl.int64) * num_keys
    i_n = part * BLOCK + tl.arange(0, BLOCK)
    b_scores = tl.load(p_own_scores + i_n, mask=i_n < num_keys, other=_LOW)
    highest = tl.max(b_scores, axis=0)
    b_weights = tl.where(b_scores > _LOW, tl.exp(beta * (b_scores - highest)), 0.0)
    num_parts = count_of(p_table, num_groups, group, AT_PARTS)
    at = p_weighed + (place_of(p_table, num_groups, group, AT_PART) + row * num_parts + part) * 3
    tl.store(at, highest)
    tl.store(at + 1, tl.sum(b_weights, axis=0))
    tl.store(at + 2, tl.sum(tl.where(b_scores > _LOW, b_weights * b_scores, 0.0), axis=0))


@triton.jit
def _mean_score(p_weighed: tl.tensor, num_parts: tl.tensor, beta: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Return the softmax's mean score of all parts; not a number where no score is one."""
    b_highest = tl.full([BLOCK], _LOW, dtype=tl.float32)
    for first in range(0, num_parts, BLOCK):
        i_k = first + tl.arange(0, BLOCK)
        b_highest = tl.maximum(b_highest, tl.load(p_weighed + 3 * i_k, mask=i_k < num_parts, other=_LOW))
    highest = tl.max(b_highest, axis=0)
    b_sum = tl.zeros([BLOCK], dtype=tl.float32)
    b_scored = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(0, num_parts, BLOCK):
        i_k = first + tl.arange(0, BLOCK)
        b_own = tl.load(p_weighed + 3 * i_k, mask=i_k < num_parts, other=_LOW)
        b_factor = tl.where(b_own > _LOW, tl.exp(beta * (b_own - highest)), 0.0)
        b_sum += b_factor * tl.load(p_weighed + 3 * i_k + 1, mask=i_k < num_parts, other=0.0)
        b_scored += b_factor * tl.load(p_weighed + 3 * i_k + 2, mask=i_k < num_parts, other=0.0)
    return tl.sum(b_scored, axis=0) / tl.sum(b_sum, axis=0)


@triton.jit
def _least_agreement(mean: tl.tensor, top: tl.tensor, beta: tl.tensor) -> tl.tensor:
    # As `bounds.least_agreement`, rounded down.
    doubt = tl.exp(4.0 * tl.minimum(beta, _MOST_BETA) * _SLACK) - 1.0
    least = mean - 2.0 * _SLACK - 2.0 * (doubt + 1e-6) * tl.maximum(top - mean, 0.0)
    return tl.where(beta > _MOST_BETA, -1.0, least)


@triton.jit
def _reach(agreement: tl.tensor, keep: tl.tensor, gamma: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return cosine and sine of `bounds.widest_reach`; the cosine is -1 where the query may be led anywhere."""
    # Not a number tells nothing.
    known = agreement > 0.0
    least = tl.where(known, tl.minimum(agreement, 1.0), 0.0)
    along = keep + gamma * least
    across = gamma * tl.sqrt(tl.maximum(1.0 - least * least, 0.0))
    length = tl.sqrt(along * along + across * across)
    widest = gamma / tl.maximum(keep, gamma)
    blind = tl.where(gamma < keep, tl.sqrt(tl.maximum(1.0 - widest * widest, 0.0)), -1.0)
    cosine = tl.where(known, along / length, blind)
    sine = tl.where(known, across / length, tl.where(gamma < keep, widest, 0.0))
    return cosine, sine


@triton.jit
def _lowest(score: tl.tensor, cosine: tl.tensor, sine: tl.tensor) -> tl.tensor:
    below = tl.maximum(score - _SLACK, -1.0)
    turned = below * cosine - tl.sqrt(tl.maximum(1.0 - below * below, 0.0)) * sine
    return tl.where(below > -cosine, turned, -1.0)


@triton.jit
def _highest(score: tl.tensor, cosine: tl.tensor, sine: tl.tensor) -> tl.tensor:
    above = tl.minimum(tl.maximum(score + _SLACK, -1.0), 1.0)
    turned = above * cosine + tl.sqrt(tl.maximum(1.0 - above * above, 0.0)) * sine
    return tl.where(above < cosine, turned, 1.0)


@triton.jit(do_not_specialize=["num_groups"], do_not_specialize_on_alignment=["p_sequences"])
def settle_kernel(
    p_best_score: tl.tensor,
    p_best_owner: tl.tensor,
    p_weighed: tl.tensor,
    p_sequences: tl.tensor,
    p_table: tl.tensor,
    p_rules: tl.tensor,
    p_open: tl.tensor,
    p_entry: tl.tensor,
    p_best: tl.tensor,
    p_score: tl.tensor,
    p_second: tl.tensor,
    p_second_score: tl.tensor,
    num_groups: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Decide a row by the shortlist [B, 2K] of first scores if these are certain; write whether it is `open` [B].

    What is written of an open row is overwritten later. Grid: (all queries,).
    """
    group, row, i_b = row_of(p_table, num_groups, tl.program_id(0))
    num_parts = count_of(p_table, num_groups, group, AT_PARTS)
    first = place_of(p_table, num_groups, group, AT_PART) + row * num_parts
    p_scores, p_owners = p_best_score + 2 * first, p_best_owner + 2 * first
    p_sequences += place_of(p_table, num_groups, group, AT_SEQUENCE)
    score, _, best = _best_of_blocks(p_scores, p_owners, p_sequences, 2 * num_parts, _NO_ENTRY, BLOCK)
    second_score, _, second = _best_of_blocks(p_scores, p_owners, p_sequences, 2 * num_parts, best, BLOCK)
    beta = rule_of(p_rules, num_groups, group, RULE_BETA)
    mean = _mean_score(p_weighed + 3 * first, num_parts, beta, BLOCK)
    agreement = _least_agreement(mean, score, beta)
    keep = rule_of(p_rules, num_groups, group, RULE_KEEP)
    cosine, sine = _reach(agreement, keep, rule_of(p_rules, num_groups, group, RULE_GAMMA))
    threshold = rule_of(p_rules, num_groups, group, RULE_THRESHOLD)
    least = _lowest(score, cosine, sine) - _SLACK
    fires = least > rule_of(p_rules, num_groups, group, RULE_SURE_ABOVE)
    fires = fires & (_highest(second_score, cosine, sine) + _SLACK < least)
    silent = _highest(score, cosine, sine) + _SLACK <= threshold
    # Where no score is a number, neither is the mean: then the row is left to the plain way.
    certain = (fires | silent) & (mean > _LOW)
    tl.store(p_open + i_b, tl.where(certain, 0, 1))
    tl.store(p_entry + i_b, tl.where(fires, best, _NO_ENTRY))
    tl.store(p_best + i_b, best)
    tl.store(p_score + i_b, score)
    tl.store(p_second + i_b, second)
    tl.store(p_second_score + i_b, second_score)
