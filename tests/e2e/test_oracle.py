"""The oracle against itself: decoding over a clean KV cache says what recomputing everything says."""

import dataclasses

import pytest
import torch

from tests.e2e import mixed
from tests.e2e.oracle import Oracle, OracleEntry


def lora(entry: OracleEntry, generator: torch.Generator) -> OracleEntry:
    values = torch.randn(8, entry.values.shape[1], generator=generator) * 0.3
    return dataclasses.replace(entry, values=values, mode="answer", rank=4)


def test_cached_and_recomputed_answers_agree(model_folder: str, site: str) -> None:
    cached, plain = Oracle(model_folder, site), Oracle(model_folder, site, cached=False)
    texts = mixed.prompts(seed=8)
    book = mixed.books(cached, texts, seed=8)[mixed.CODEBOOK_B]
    generator = torch.Generator().manual_seed(8)
    entries = tuple(lora(entry, generator) if index % 3 == 0 else entry for index, entry in enumerate(book.entries))
    book = dataclasses.replace(book, entries=entries)
    fired = 0
    for text in texts:
        # Twice: the second answer comes after the first one wrote over the kept cache.
        for chosen in (book, None, book):
            here, there = (oracle.answer(text, chosen, 10, -1) for oracle in (cached, plain))
            assert (here.tokens, here.edit_id, here.score) == (there.tokens, there.edit_id, there.score)
            assert here.logprobs == pytest.approx(there.logprobs, abs=1e-4)
        fired += cached.answer(text, book, 1, -1).edit_id is not None
    assert fired >= 8


def test_a_vector_that_is_shared_is_written_at_each_of_its_positions_up_to_the_end_of_the_span() -> None:
    output, values = torch.zeros(2), torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    entry = OracleEntry("e", 1, torch.ones(1, 2), values, "sequence", span=5, share=3)
    assert [float(entry.write(output, offset)[0]) for offset in range(-1, 7)] == [0, 1, 1, 1, 2, 2, 0, 0]


def test_a_span_moves_the_query(model_folder: str, site: str) -> None:
    oracle = Oracle(model_folder, site)
    [text] = [text for text in mixed.prompts(seed=8) if len(text) == 64]
    assert torch.equal(oracle.query(text, 0.6), oracle.query(text, 0.6, (0, 64)))
    assert float(oracle.query(text, 0.6) @ oracle.query(text, 0.6, (4, 20))) < 0.999
