"""What kernels read of a `groups.RouteTable`: which group an item of work belongs to, and what is said of that group.

A table holds [column, group] of whole numbers; ``p_rules`` is the same memory as float32, with [parameter, group]
behind them.
"""

import triton
import triton.language as tl

from horen_vllm.kernels.groups import Column, Parameter

AT_ROW, AT_QUERY, AT_QUERIES = (tl.constexpr(it.value) for it in (Column.ROW, Column.QUERY, Column.QUERIES))
AT_KEY, AT_KEYS, AT_SEQUENCE = (tl.constexpr(it.value) for it in (Column.KEY, Column.KEYS, Column.SEQUENCE))
AT_SCORE, AT_SIZE = (tl.constexpr(it.value) for it in (Column.SCORE, Column.SIZE))
AT_CHUNK, AT_CHUNKS = (tl.constexpr(it.value) for it in (Column.CHUNK, Column.CHUNKS))
AT_BLOCK, AT_BLOCKS = (tl.constexpr(it.value) for it in (Column.BLOCK, Column.BLOCKS))
AT_PART, AT_PARTS = (tl.constexpr(it.value) for it in (Column.PART, Column.PARTS))
RULE_BETA, RULE_KEEP, RULE_GAMMA, RULE_EPSILON, RULE_THRESHOLD, RULE_SURE_ABOVE = (
    tl.constexpr(it.value) for it in Parameter
)
_RULES = tl.constexpr(2 * len(Column))
"""Where the parameters begin, in float32 columns."""
_SEARCHED = tl.constexpr(128)
_NEVER = tl.constexpr(2**62)


@triton.jit
def group_of(p_table: tl.tensor, num_groups: tl.tensor, item: tl.tensor, FIRST: tl.constexpr) -> tl.tensor:
    """Return the group that an item belongs to, by the column of each group's first item; none may be without one."""
    found = 0
    for first in range(0, num_groups, _SEARCHED):
        i_g = first + tl.arange(0, _SEARCHED)
        b_first = tl.load(p_table + FIRST * num_groups + i_g, mask=i_g < num_groups, other=_NEVER)
        found += tl.sum((b_first <= item).to(tl.int32), axis=0)
    return found - 1


@triton.jit
def place_of(p_table: tl.tensor, num_groups: tl.tensor, group: tl.tensor, COLUMN: tl.constexpr) -> tl.tensor:
    """Return a number of a group as int64, which is what addresses need."""
    return tl.load(p_table + COLUMN * num_groups + group)


@triton.jit
def count_of(p_table: tl.tensor, num_groups: tl.tensor, group: tl.tensor, COLUMN: tl.constexpr) -> tl.tensor:
    """Return a number of a group that fits in int32."""
    return tl.load(p_table + COLUMN * num_groups + group).to(tl.int32)


@triton.jit
def rule_of(p_rules: tl.tensor, num_groups: tl.tensor, group: tl.tensor, PARAMETER: tl.constexpr) -> tl.tensor:
    """Return a parameter of a group's rule."""
    return tl.load(p_rules + (_RULES + PARAMETER) * num_groups + group)


@triton.jit
def share_of(
    p_table: tl.tensor, num_groups: tl.tensor, item: tl.tensor, FIRST: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return an item's group, its query among the group's, and its number among that query's items.

    Queries come first: programs that read the same keys run side by side.
    """
    group = group_of(p_table, num_groups, item, FIRST)
    own = item - count_of(p_table, num_groups, group, FIRST)
    num_queries = count_of(p_table, num_groups, group, AT_QUERIES)
    return group, own % num_queries, own // num_queries


@triton.jit
def row_of(p_table: tl.tensor, num_groups: tl.tensor, row: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return the group of a row of the table's order, its query among the group's, and its query in the batch."""
    group = group_of(p_table, num_groups, row, AT_ROW)
    own = row - count_of(p_table, num_groups, group, AT_ROW)
    return group, own, place_of(p_table, num_groups, group, AT_QUERY) + own
