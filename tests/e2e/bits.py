"""Bit equality of two engines: same requests, same batch geometry, tokens and logprobs compared as bits.

``python -m tests.e2e.bits MODEL SITE`` compares two eager engines, for runners that are chosen from outside.
"""

import argparse
import struct
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e import mixed
from tests.e2e.engines import engine, tagged
from tests.e2e.oracle import Oracle, OracleBook
from tests.e2e.rpc import apply_book

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
            apply_book(llm, name, book, folder)
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
    # Not the choice's own attribute: this process loaded its plugins, none of them, for the plain engine.
    decision = (output.kv_transfer_params or {}).get("horen")
    return decision["edit_id"] if decision else None


def main() -> None:
    """Compare two eager engines in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("site")
    arguments = parser.parse_args()
    oracle = Oracle(arguments.model, arguments.site)
    with tempfile.TemporaryDirectory() as folder:
        check_bit_identity(arguments.model, arguments.site, oracle, Path(folder), enforce_eager=True)


if __name__ == "__main__":
    main()
