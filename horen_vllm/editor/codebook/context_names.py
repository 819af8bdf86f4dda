"""Names of contexts and queries: equal for the same prompt, query span and mask, whatever edit they belong to."""

import hashlib
from array import array
from collections.abc import Sequence

from horen_vllm.artifact import KeyContext
from horen_vllm.editor.keying import Keying


def context_name(context: KeyContext, words: Sequence[str] = ()) -> bytes:
    """Return a hash that names a context, or its query with these words."""
    numbers = array("q", context.span)
    for edge in context.masked:
        numbers.extend(edge)
    # Neither a token nor a position is negative, so this tells the mask from the prompt.
    numbers.append(-1)
    numbers.extend(context.prompt_ids)
    name = hashlib.blake2b(numbers.tobytes(), digest_size=16)
    if words:
        name.update(array("q", [-1]).tobytes() + "\n".join(words).encode())
    return name.digest()


def query_name(keying: Keying, context: KeyContext, words: Sequence[str]) -> bytes:
    """Return a hash that names the query of a context with a mask, of which these words are left.

    Words may be left out although no token is: where the subject stands before the query window.
    """
    return context_name(context, words if keying.reads_words else ())
