"""From token ids to text, token by token: what words and names are looked for in, by editor and server alike."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tokenizers.decoders import DecodeStream

from horen_vllm.core.words import TokenText
from horen_vllm.errors import FailedPrecondition

_MOST_HELD: Final = 8
"""Tokens that may wait for the rest of a character (four bytes at most): every step decodes all that wait."""


def token_text(tokenizer: Any, prompt_ids: Sequence[int], span: tuple[int, int]) -> TokenText:
    """Return the text of a prompt's tokens [first, stop) with each token's share of it.

    Decoded from the ids, so that a text reads the same whatever it was sent as.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.

    Raises
    ------
    FailedPrecondition
        ``unsupported_tokenizer``, for one that is not a fast tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        message = "subjects and words need a fast tokenizer, and the model's is not one."
        raise FailedPrecondition(message, code="unsupported_tokenizer")
    first, stop = span
    return TokenText(list(_pieces(backend, prompt_ids[first:stop])), first)


def _pieces(backend: Any, token_ids: Sequence[int]) -> Iterator[str]:
    stream, held = DecodeStream(skip_special_tokens=False), 0
    for token in token_ids:
        if held == _MOST_HELD:
            # Broken text, or the replacement character itself: what was held back is dropped.
            stream, held = DecodeStream(skip_special_tokens=False), 0
        try:
            piece = stream.step(backend, token)
        except Exception:  # noqa: BLE001 - the stream has no class of its own for it
            # Ids may be bytes that are no UTF-8 text, over which the stream stumbles; whoever sends them must not
            # stop a server. What it has held back so far is dropped.
            stream = DecodeStream(skip_special_tokens=False)
            piece = stream.step(backend, token)
        held = held + 1 if piece is None else 0
        yield piece or ""
