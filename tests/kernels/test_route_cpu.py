"""Route on CPUs: the definition's decisions from one reading of the keys, whatever else is in the batch."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from horen_vllm.core.match import NO_ENTRY
from horen_vllm.kernels import cpu_book
from horen_vllm.kernels.route_cpu import FIRST, route_counted, route_cpu
from tests.kernels.books import FIELDS, Book, assert_same, check, crowd, make_book, queries_of

METHODS = ((0.0, 0), (0.01, 1), (0.1, 1), (0.6, 1), (0.3, 3))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


PRESETS = {"cosine": (0.0, 0), "horen-paper": (0.01, 1), "horen-reference": (0.1, 1)}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    keys=st.sampled_from((1, 2, FIRST - 1, FIRST, FIRST + 1, 63, 300)),
    each=st.sampled_from((1, 2, 40)),
    width=st.sampled_from((8, 33, 1500)),
    method=st.sampled_from(METHODS),
    beta=st.sampled_from((1.0, 20.0, 300.0)),
    twins=st.integers(0, 30),
    near=st.integers(0, 30),
)
def test_agrees_with_the_definition(
    seed: int,
    keys: int,
    each: int,
    width: int,
    method: tuple[float, int],
    beta: float,
    twins: int,
    near: int,
) -> None:
    book = make_book(seed, keys, width, max(1, keys // each), twins=twins, near=near)
    book.gamma, book.steps = method
    book.beta = beta
    queries = queries_of(book, 3, seed)
    check(book, queries, book.run(route_cpu, queries))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keys", [40, 700])
@pytest.mark.parametrize("scattered", [False, True])
def test_a_row_has_the_same_bits_in_every_batch(method: tuple[float, int], keys: int, *, scattered: bool) -> None:
    book = make_book(3, keys, 1030, keys) if scattered else crowd(3, keys, 1030, 0.5)
    book.gamma, book.steps = method
    queries = queries_of(book, 15, 4)
    together = book.run(route_cpu, queries)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(9))
    moved = book.run(route_cpu, queries[order])
    for name in FIELDS:
        assert torch.equal(getattr(moved, name), getattr(together, name)[order]), name
    for size in (1, 2, 3, 7):
        for first in range(0, 15, size):
            part = book.run(route_cpu, queries[first : first + size])
            for name in FIELDS:
                assert torch.equal(getattr(part, name), getattr(together, name)[first : first + size]), (size, name)


@pytest.mark.parametrize("method", METHODS)
def test_threads_and_parts_change_no_bit(method: tuple[float, int]) -> None:
    """Four parts; with three threads, whichever takes them."""
    book = crowd(12, 20_000, 1030, 0.5)
    book.gamma, book.steps = method
    assert len(cpu_book.Book(book.keys, book.rows, book.owners, book.sequences)._starts(20_000)) == 5
    queries = queries_of(book, 3, 4)
    alone = book.run(route_cpu, queries)
    check(book, queries, alone)
    torch.set_num_threads(3)
    for _ in range(3):
        assert_same(alone, book.run(route_cpu, queries))


@pytest.mark.parametrize("beta", [300.0, 30.0])
def test_parts_without_a_near_key_count_for_little(beta: float) -> None:
    """What each part is relative to differs from part to part at the higher beta."""
    book = crowd(12, 20_000, 1030, 0.5)
    book.beta, book.gamma, book.steps = beta, 0.6, 1
    queries = book.keys[book.rows[[10, 19_990]]] + 0.02 * torch.randn(
        2, 1030, generator=torch.Generator().manual_seed(1)
    )
    queries = F.normalize(queries, dim=-1)
    check(book, queries, book.run(route_cpu, queries))


@pytest.mark.parametrize("beta", [5.0, 20.0, 30.0, 31.0, 300.0])
@pytest.mark.parametrize("cosine", [0.2, -0.2, -0.5, -0.99])
def test_a_far_query_is_led_to_its_attractor(beta: float, cosine: float) -> None:
    """Its weights are tiny beside those of a query near a key."""
    axis, side = torch.eye(2, 1030)
    keys = axis[None].repeat(3, 1)
    book = Book(keys, torch.arange(3), torch.arange(3), torch.arange(3), gamma=0.3, steps=1, beta=beta)
    query = (cosine * axis + (1.0 - cosine**2) ** 0.5 * side)[None]
    check(book, query, book.run(route_cpu, query))


@pytest.mark.parametrize("method", METHODS)
def test_equal_keys_score_equal_wherever_they_lie(method: tuple[float, int]) -> None:
    """More of them than are read again at first, so that each of them could hide the newest."""
    book = make_book(2, 900, 1030, 900)
    book.gamma, book.steps = method
    copies = torch.arange(0, 900, 30)
    assert len(copies) > FIRST
    book.keys[book.rows[copies]] = book.keys[book.rows[0]].clone()
    routed = book.run(route_cpu, book.keys[book.rows[:1]].clone())
    ranked = book.owners[copies][book.sequences[book.owners[copies]].argsort(descending=True)]
    assert (int(routed.best), int(routed.runner_up)) == (int(ranked[0]), int(ranked[1]))
    assert float(routed.score) == float(routed.runner_up_score)


def test_a_key_that_refinement_brings_to_the_top_is_found() -> None:
    """A crowd lies on one side of the query and draws it away from the many keys that were nearest."""
    generator = torch.Generator().manual_seed(1)
    axis, side = torch.eye(2, 64)
    drawn = F.normalize(0.80 * axis + 0.6 * side, dim=0)
    nearest = F.normalize(0.81 * axis - 0.586 * side + 0.01 * torch.randn(3 * FIRST, 64, generator=generator), dim=-1)
    crowd_keys = F.normalize(0.6 * axis + 0.8 * side + 0.02 * torch.randn(2000, 64, generator=generator), dim=-1)
    keys = torch.cat([nearest, drawn[None], crowd_keys])
    count = len(keys)
    book = Book(keys, torch.arange(count), torch.arange(count), torch.arange(count), gamma=0.3, steps=1, beta=5.0)
    query = axis[None].clone()
    assert int((keys @ axis > keys[3 * FIRST] @ axis).sum()) > FIRST
    routed = book.run(route_cpu, query)
    check(book, query, routed)
    assert int(routed.best) >= 3 * FIRST
    _, shares = route_counted(
        query, keys, book.rows, book.owners, book.sequences,
        beta=5.0, gamma=0.3, steps=1, epsilon=1e-5, threshold=0.3,
    )  # fmt: skip
    assert shares.undecided.tolist() == [True]
    assert int(shares.again) > FIRST


def test_one_entry_that_owns_all_the_nearest_keys_hides_no_runner_up() -> None:
    book = crowd(7, 400, 32, 0.0)
    query = book.keys[book.rows[:1]].clone()
    noise = torch.randn(100, 32, generator=torch.Generator().manual_seed(3))
    book.keys[book.rows[:100]] = F.normalize(query + 0.05 * noise, dim=-1)
    book.owners[:100] = 7
    for book.gamma, book.steps in METHODS:
        check(book, query, book.run(route_cpu, query))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_hundred_thousand_entries(preset: str) -> None:
    book = crowd(11, 100_000, 48, 0.6)
    book.gamma, book.steps = PRESETS[preset]
    # Near-ties around the winner: nearer to each other than a first score is exact.
    generator = torch.Generator().manual_seed(5)
    query = book.keys[book.rows[70_000:70_001]].clone()
    near = torch.randint(100_000, (50,), generator=generator)
    book.keys[book.rows[near]] = F.normalize(query + 1e-6 * torch.randn(50, 48, generator=generator), dim=-1)
    queries = torch.cat([query, queries_of(book, 3, 6)])
    check(book, queries, book.run(route_cpu, queries))


def test_vectors_of_any_length_are_compared_by_their_products() -> None:
    """GRACE's keys and queries are no directions; large numbers would hide in a margin made for cosines."""
    generator = torch.Generator().manual_seed(2)
    keys = 100.0 * torch.randn(500, 12, generator=generator)
    keys[400] = keys[3] * 1.0001
    queries = 100.0 * torch.randn(4, 12, generator=generator)
    queries[0] = 0.03 * keys[400]
    index = torch.arange(500)
    book = Book(keys, index, index, index, threshold=-torch.inf)
    routed = book.run(route_cpu, queries, directions=False)
    best = (queries.double() @ keys.double().T).sort(dim=1, descending=True).indices
    assert routed.best.tolist() == best[:, 0].tolist()
    assert routed.runner_up.tolist() == best[:, 1].tolist()
    queries[1] = torch.nan
    assert int(book.run(route_cpu, queries, directions=False).best[1]) == NO_ENTRY


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("method", METHODS)
def test_a_query_that_is_no_number_matches_nothing_and_spoils_nobody(bad: float, method: tuple[float, int]) -> None:
    book = crowd(6, 90, 24, 0.4)
    book.gamma, book.steps = method
    book.threshold = -1.0
    queries = queries_of(book, 4, 3)
    clean = book.run(route_cpu, queries[1:])
    queries[0, 5] = bad
    routed = book.run(route_cpu, queries)
    assert [int(routed.entry[0]), int(routed.best[0]), int(routed.runner_up[0])] == [NO_ENTRY] * 3
    assert_same(clean, type(clean)(*(getattr(routed, name)[1:] for name in FIELDS)))
