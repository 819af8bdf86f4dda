"""Keying: the queries and keys of every kind of codebook, as a server makes them."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from horen_vllm.core.match import KeyTable, route
from horen_vllm.core.presets import preset_parameters
from horen_vllm.core.routing import RoutingSpace, word_vector
from horen_vllm.editor.keying import Keying

WIDTH, KEPT, BUCKETS = 16, 6, 32
COSINE = preset_parameters("cosine", "tiny", 0.5)
GRACE = preset_parameters("grace", "tiny")
MEANS = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
WORDS = [("who", "leads", "acme"), (), ("who",), ("acme",), ("東",)]


def space_of(buckets: int) -> RoutingSpace:
    drawn = torch.randn(KEPT + 1, WIDTH, generator=torch.Generator().manual_seed(1))
    rarity = torch.rand(64 if buckets else 0, generator=torch.Generator().manual_seed(2)) + 0.1
    return RoutingSpace(drawn[0], drawn[1:], rarity, 0.4 if buckets else 0.0, 1, buckets)


def test_without_a_space_queries_are_directions_and_their_own_keys() -> None:
    keying = Keying(COSINE)
    queries = keying.queries(MEANS, WORDS)
    assert torch.equal(queries, F.normalize(MEANS, dim=1))
    assert keying.keys(queries) is queries
    assert (keying.width(WIDTH), keying.reads_text, keying.reads_words) == (WIDTH, False, False)
    assert Keying(replace(COSINE, anchors=True)).reads_text


def test_in_a_space_words_have_their_share() -> None:
    plain, joined = Keying(COSINE, space_of(0)), Keying(COSINE, space_of(BUCKETS))
    dense, queries = plain.queries(MEANS, WORDS), joined.queries(MEANS, WORDS)
    assert dense.shape == (5, plain.width(WIDTH)) == (5, KEPT)
    assert queries.shape == (5, joined.width(WIDTH)) == (5, KEPT + BUCKETS)
    assert (plain.reads_text, joined.reads_text, joined.reads_words) == (False, True, True)
    said = torch.stack([word_vector(words, space_of(BUCKETS)) for words in WORDS])
    scores = 0.6 * dense @ dense.T + 0.4 * said @ said.T
    told = [0, 2, 3, 4]
    torch.testing.assert_close((queries @ queries.T)[told][:, told], scores[told][:, told])
    torch.testing.assert_close(queries[1, :KEPT], dense[1])


@pytest.mark.parametrize("keying", [Keying(COSINE), Keying(COSINE, space_of(BUCKETS)), Keying(GRACE)])
def test_rows_do_not_see_each_other_and_there_may_be_none(keying: Keying) -> None:
    queries = keying.queries(MEANS, WORDS)
    for at in range(5):
        assert torch.equal(keying.queries(MEANS[at : at + 1], WORDS[at : at + 1])[0], queries[at])
    nothing = keying.queries(MEANS[:0], [])
    assert nothing.shape == keying.keys(nothing).shape == (0, keying.width(WIDTH))


def test_grace_queries_find_the_nearest_key() -> None:
    keying = Keying(GRACE)
    keys = keying.keys(keying.queries(MEANS, WORDS))
    assert keys.shape == (5, keying.width(WIDTH)) == (5, WIDTH + 2)
    asked = MEANS + 0.3 * torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(3))
    numbers = torch.arange(5)
    found = route(keying.queries(asked, WORDS), KeyTable(keys, numbers, numbers), replace(GRACE, threshold=-1.0))
    apart = torch.cdist(asked, MEANS)
    assert [it.best for it in found] == apart.argmin(dim=1).tolist()
    for decision, distance in zip(found, apart.amin(dim=1).tolist(), strict=True):
        assert decision.score == pytest.approx(-(distance**2) / 2, abs=1e-4)
    # Keys are made of keys as of queries: an entry's key stands for its context's query.
    assert torch.equal(keying.keys(keys), keys)


def test_the_window_is_the_end_of_the_span() -> None:
    assert Keying(COSINE).window((3, 13)) == (7, 13)
    assert Keying(GRACE).window((3, 13)) == (12, 13)
