"""Names of contexts: equal for the same prompt, query span and mask, whatever edit they belong to."""

import hashlib
from array import array

from horen_vllm.artifact import KeyContext


def context_name(context: KeyContext) -> bytes:
    """Return a hash that names a context."""
    numbers = array("q", context.span)
    for edge in context.masked:
        numbers.extend(edge)
    # Neither a token nor a position is negative, so this tells the mask from the prompt.
    numbers.append(-1)
    numbers.extend(context.prompt_ids)
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).digest()
