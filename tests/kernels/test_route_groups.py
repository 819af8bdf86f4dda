"""Mixed batches: the form for CPUs is each book's own call, and the table numbers every piece of work once."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.kernels import dispatch
from horen_vllm.kernels.groups import BLOCK_N, Column, Parameter, RouteGroup, RouteRule, RouteTable, chunking
from tests.kernels.books import Book, asked, assert_as_alone, crowd, make_book, shelve

CPU = torch.device("cpu")
PART = 64
GROUPS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from((0, 1, 16, 17, 1000, 100_000)), st.integers(0, 3)),
    min_size=1,
    max_size=6,
).filter(lambda drawn: any(queries and keys for queries, keys, _ in drawn))
"""Queries, keys, steps."""


@pytest.mark.parametrize("seed", range(4))
def test_on_a_cpu_each_row_is_routed_as_by_its_own_book_alone(seed: int) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    made = [make_book(seed, 1, 24, 1), crowd(seed, 900, 24, 0.5), Book(torch.zeros(1, 24), none, none, none)]
    made += [make_book(seed + 1, 33, 24, 11, twins=3, near=3)]
    books = shelve(made, seed)
    for number, book in enumerate(books):
        book.gamma, book.steps = 0.2, (number + seed) % 3
    assert_as_alone(dispatch.route_mixed, dispatch.route, books, asked(books, (2, 5, 1, 3), seed))


def test_on_a_cpu_nobody_may_ask() -> None:
    assert dispatch.route_mixed(torch.ones(0, 4), torch.eye(4), []).entry.shape == (0,)


def make_groups(drawn: list[tuple[int, int, int]]) -> list[RouteGroup]:
    groups = []
    for number, (queries, keys, steps) in enumerate(drawn):
        column = torch.full((keys,), number)
        rule = RouteRule(20.0 + number, 0.25, steps, 0.5, -torch.inf)
        groups.append(RouteGroup(queries, column, column, torch.arange(number + 1), rule))
    return groups


@settings(max_examples=60, deadline=None)
@given(drawn=GROUPS, width=st.sampled_from((8, 1024, 14336)))
def test_the_table_numbers_all_work_once_and_no_more(drawn: list[tuple[int, int, int]], width: int) -> None:
    groups = make_groups(drawn)
    table = RouteTable(groups, width, part=PART, device=CPU)
    held = [group for group in groups if not group.is_empty]
    assert sorted(map(id, table.groups)) == sorted(map(id, held))
    assert table.steps == sorted(table.steps, reverse=True)
    numbers = table.numbers[: len(Column) * len(table)].view(len(Column), len(table))
    counted: dict[Column, Callable[[int], int]] = {
        Column.ROW: lambda keys: 1,
        Column.SCORE: lambda keys: keys,
        Column.CHUNK: lambda keys: chunking(keys, width)[0],
        Column.BLOCK: lambda keys: -(-keys // BLOCK_N),
        Column.PART: lambda keys: -(-keys // PART),
    }
    for column, of_each_query in counted.items():
        first = 0
        for place, group in enumerate(table.groups):
            assert (int(numbers[column, place]), table.total(column, place)) == (first, first)
            first += group.queries * of_each_query(len(group.key_rows))
        assert table.total(column, len(table)) == first
    for step in range(4):
        assert table.refined(step) == sum(group.rule.steps > step for group in held)


@settings(max_examples=60, deadline=None)
@given(drawn=GROUPS)
def test_the_table_finds_each_groups_own(drawn: list[tuple[int, int, int]]) -> None:
    groups = make_groups(drawn)
    table = RouteTable(groups, 8, part=PART, device=CPU)
    numbers = table.numbers[: len(Column) * len(table)].view(len(Column), len(table)).tolist()
    rules = table.rules[2 * len(Column) * len(table) :].view(-1, len(table))
    for place, group in enumerate(table.groups):
        number = next(at for at, other in enumerate(groups) if other is group)
        assert numbers[Column.QUERY][place] == sum(other.queries for other in groups[:number])
        assert (numbers[Column.QUERIES][place], numbers[Column.KEYS][place]) == (group.queries, len(group.key_rows))
        keys = slice(numbers[Column.KEY][place], numbers[Column.KEY][place] + len(group.key_rows))
        assert (table.key_rows[keys] == number).all()
        assert (table.owners[keys] == number).all()
        first = numbers[Column.SEQUENCE][place]
        assert torch.equal(table.sequences[first : first + number + 1], group.sequences)
        own = (20.0 + number, 0.75, 0.25, 0.5, -torch.inf, torch.inf)
        assert tuple(float(rules[parameter, place]) for parameter in Parameter) == own


def test_groups_that_may_settle_have_a_table_of_their_own() -> None:
    column = torch.arange(3)
    rules = [
        RouteRule(20.0, 0.1, steps, 1e-5, 0.5, directions, sure_above)
        for steps, directions, sure_above in ((1, True, None), (1, True, 0.6), (2, True, 0.6), (0, False, 0.6))
    ]
    groups = [RouteGroup(2, column, column, column, rule) for rule in rules]
    tables = [RouteTable(groups, 8, settles=settles, part=PART, device=CPU) for settles in (True, False)]
    assert [[groups.index(group) for group in table.groups] for table in tables] == [[1], [2, 0, 3]]
    assert int(tables[0].numbers[Column.QUERY]) == 2
    assert float(tables[0].rules[2 * len(Column) + Parameter.SURE_ABOVE]) == pytest.approx(0.6)


def test_groups_that_share_their_sequences_share_them_in_the_table() -> None:
    column, sequences = torch.arange(3), torch.arange(1000)
    groups = [RouteGroup(1, column, column, sequences, RouteRule(20.0, 0.0, 0, 0.0, 0.5)) for _ in range(5)]
    table = RouteTable(groups, 8, part=PART, device=CPU)
    assert torch.equal(table.sequences, sequences)
    assert torch.equal(table.key_rows, column)
    assert table.numbers[Column.KEY * 5 : Column.KEY * 5 + 5].tolist() == [0] * 5


def test_keys_with_other_owners_are_not_shared() -> None:
    column = torch.arange(3)
    groups = [RouteGroup(1, column, column + at, column, RouteRule(20.0, 0.0, 0, 0.0, 0.5)) for at in (0, 0, 1)]
    table = RouteTable(groups, 8, part=PART, device=CPU)
    assert table.owners.tolist() == [0, 1, 2, 0, 1, 2, 1, 2, 3]
    assert table.numbers[Column.KEY * 3 : Column.KEY * 3 + 3].tolist() == [0, 3, 6]
