"""Text of tokens: read as it was written, and never a reason to stop, whatever bytes the ids stand for."""

import random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.decoders import DecodeStream
from tokenizers.models import BPE

from horen_vllm.errors import FailedPrecondition
from horen_vllm.pieces import token_text

BYTES = {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}
VOCABULARY = {"<unk>": 0, **BYTES, "▁who": 257, "▁is": 258, "▁ann": 259}


@pytest.fixture
def tokenizer() -> SimpleNamespace:
    """A tokenizer that falls back to bytes, as Llama 2's and Mistral's do."""
    backend = Tokenizer(BPE(vocab=VOCABULARY, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return SimpleNamespace(backend_tokenizer=backend)


def test_a_character_of_several_tokens_belongs_to_all_of_them(tokenizer: SimpleNamespace) -> None:
    ids = [257, 258, *(1 + byte for byte in "王".encode()), 259]
    text = token_text(tokenizer, [0, *ids], (1, 7))
    assert [word.text for word in text.words] == ["who", "is", "王", "ann"]
    assert text.token_ranges([(2, 3)]) == ((3, 6),)


def test_bytes_that_are_no_text_are_read_over(tokenizer: SimpleNamespace) -> None:
    source = random.Random(0)
    for _ in range(300):
        ids = source.choices(range(1, 260), k=source.randrange(1, 12))
        text = token_text(tokenizer, [*ids, 257, 258, 259], (0, len(ids) + 3))
        assert text.words[-1].text == "ann"


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        token_text(SimpleNamespace(), [1], (0, 1))
    assert caught.value.code == "unsupported_tokenizer"


def test_replacement_characters_are_not_held_back_for_good(tokenizer: SimpleNamespace) -> None:
    """A stream that waits for the rest of a character decodes all that waits at every step."""
    ids = [1 + byte for byte in "\ufffd".encode()] * 500
    waiting = [0]

    class Counting:
        def __init__(self, **_options: object) -> None:
            self._stream, self._count = DecodeStream(skip_special_tokens=False), 0

        def step(self, backend: Any, token: int) -> str | None:
            piece = self._stream.step(backend, token)
            self._count = self._count + 1 if piece is None else 0
            waiting.append(self._count)
            return piece

    with patch("horen_vllm.pieces.DecodeStream", Counting):
        token_text(tokenizer, ids, (0, len(ids)))
    assert max(waiting) == 8
