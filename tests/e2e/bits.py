"""Bit equality of two engines: same requests, same batch geometry, tokens and logprobs compared as bits."""

import struct
from pathlib import Path
from typing import Any

from tests.e2e import mixed
from tests.e2e.engines import apply_book, engine, tagged
from tests.e2e.oracle import Oracle, OracleBook

Answer = tuple[tuple[int, ...], tuple[bytes, ...]]


def answers(
    model: str, site: str | None, books: dict[str, OracleBook], folder: Path, requests: list[mixed.Case], **options: Any
) -> list[tuple[Answer, str | None]]:
    """Serve `requests` in bf16 and return each one's tokens and logprob bits, and the edit that fired.

    Without a site the codebook names mean nothing, so they are left out: that is the plain vLLM.
    """
    settings = {"dtype": "bfloat16", "enable_prefix_caching": False, "max_num_batched_tokens": 64, **options}
    with engine(model, site, **settings) as llm:
        for name, book in books.items() if site else ():
            assert apply_book(llm, name, book, folder)["revision"] == 1
        parameters = [
            # A fixed length keeps the batch geometry equal whatever an edit makes a neighbour say.
            tagged(case.codebook if site else None, max_tokens=8, ignore_eos=True, logprobs=2)
            for case in requests
        ]
        outputs = llm.generate([{"prompt_token_ids": c.prompt} for c in requests], parameters, use_tqdm=False)
        return [(_bits(output), _fired(output)) for output in outputs]


def check_bit_identity(model: str, site: str, oracle: Oracle, folder: Path, **options: Any) -> None:
    """Assert that every clean or unmatched request is bit-identical with and without the plugin."""
    texts = mixed.prompts(seed=11)
    books = mixed.books(oracle, texts, seed=11)
    requests = mixed.cases(texts, seed=11)
    plain = answers(model, None, {}, folder, requests, **options)
    edited = answers(model, site, books, folder, requests, **options)
    clean = unmatched = changed = 0
    for case, (before, _), (after, fired) in zip(requests, plain, edited, strict=True):
        if fired is None:
            assert before == after, (len(case.prompt), case.codebook)
            clean += case.codebook is None
            unmatched += case.codebook is not None
        else:
            changed += before != after
    assert min(clean, unmatched, changed) >= 5, (clean, unmatched, changed)


def _bits(output: Any) -> Answer:
    completion = output.outputs[0]
    bits = tuple(
        b"".join(struct.pack("<id", token, entry.logprob) for token, entry in sorted(position.items()))
        for position in completion.logprobs
    )
    return tuple(completion.token_ids), bits


def _fired(output: Any) -> str | None:
    decision = (output.kv_transfer_params or {}).get("horen")
    return decision["edit_id"] if decision else None
