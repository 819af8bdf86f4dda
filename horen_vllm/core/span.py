"""Query span: which tokens of a prompt the query is made of (architecture.md, *Key and query*).

Pure functions on token ids, messages, rendered text and token offsets, called by editor and server alike. They do
not know templates or tokenizers: the caller renders.

Where the content of a chat's last user message stands is found by rendering the chat twice: as it is, and with
marks around that content. Marking instead of replacing keeps templates that look into the content on the same path.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from horen_vllm.errors import InvalidArgument

_TEXT_PARTS: Final = frozenset({"text", "input_text"})


@dataclass(frozen=True, slots=True)
class ContentMarks:
    """Two texts that stand nowhere in a rendered chat."""

    left: str
    right: str


def text_span(prompt_ids: Sequence[int], bos_id: int | None) -> tuple[int, int]:
    """Return the span of a prompt without a template: all of it but its leading BOS tokens.

    Raises
    ------
    InvalidArgument
        ``empty_query_span``, when nothing else is in it.
    """
    start = 0
    while start < len(prompt_ids) and prompt_ids[start] == bos_id:
        start += 1
    if start == len(prompt_ids):
        raise _empty("the prompt")
    return start, len(prompt_ids)


def copied_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with every content that can be read only once made a list, checked for a span.

    Raises
    ------
    InvalidArgument
        ``no_user_message``; ``unsupported_content``, when the last user message is not text only.
    """
    copies = [dict(message) for message in messages]
    for message in copies:
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            message["content"] = list(content)
    content = copies[_last_user(copies)].get("content")
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, str) and (part.get("type", "text") not in _TEXT_PARTS or "text" not in part):
            message_ = "the last user message must be text only to be routed through a codebook."
            raise InvalidArgument(message_, code="unsupported_content")
    return copies


def content_marks(rendered: str) -> ContentMarks:
    """Return marks for a rendered chat: made of its hash, so no client can write them into a message."""
    digest = hashlib.sha256(rendered.encode("utf-8", "surrogatepass")).hexdigest()
    return ContentMarks(f"horen{digest[:24]}", f"horen{digest[24:48]}")


def marked_messages(messages: Sequence[Mapping[str, Any]], marks: ContentMarks) -> list[dict[str, Any]]:
    """Return what `copied_messages` gave, with marks around the last user message's content.

    Raises
    ------
    InvalidArgument
        ``no_user_message``; ``empty_query_span``, when there is no content.
    """
    copies = [dict(message) for message in messages]
    message = copies[_last_user(copies)]
    content = message.get("content")
    if not content:
        raise _empty("the last user message")
    if isinstance(content, str):
        message["content"] = f"{marks.left}{content}{marks.right}"
    else:
        parts = [{"type": "text", "text": part} if isinstance(part, str) else dict(part) for part in content]
        parts[0]["text"] = f"{marks.left}{parts[0]['text']}"
        parts[-1]["text"] = f"{parts[-1]['text']}{marks.right}"
        message["content"] = parts
    return copies


def content_range(rendered: str, marked: str, marks: ContentMarks) -> tuple[int, int]:
    """Return the half-open character range of the last user message's content, without white space at its edges.

    Templates trim white space, and tokenizers give it to the tokens of the template around it.

    Parameters
    ----------
    rendered
        The chat as the template writes it.
    marked
        The same chat with `marks` around the content.

    Raises
    ------
    InvalidArgument
        ``query_span_not_found``, when `rendered` is not `marked` without the marks: the template drops, repeats or
        rewrites the content; ``empty_query_span``, when it is white space only.
    """
    if marked.count(marks.left) != 1 or marked.count(marks.right) != 1:
        raise _not_found("does not write it exactly once")
    before, _, rest = marked.partition(marks.left)
    written, _, after = rest.partition(marks.right)
    stop = len(rendered) - len(after)
    if stop < len(before) or not rendered.startswith(before) or not rendered.endswith(after):
        raise _not_found("writes other text around it depending on what it says")
    content = rendered[len(before) : stop]
    if content.strip() != written.strip():
        raise _not_found("rewrites it depending on what it says")
    if not content.strip():
        raise _empty("the last user message")
    return len(before) + len(content) - len(content.lstrip()), stop - len(content) + len(content.rstrip())


def content_tokens(
    offsets: Sequence[tuple[int, int]], chars: tuple[int, int], *, truncated: bool = False
) -> tuple[int, int]:
    """Return the half-open token range that holds the characters `chars`.

    A token belongs to the span when it shares a character with them; so a token that was merged across an edge is
    inside.

    Parameters
    ----------
    offsets
        Half-open character range of every prompt token; an empty one for tokens that are not in the text (BOS).
    chars
        From `content_range`.
    truncated
        Whether tokens at the prompt's ends may have been cut off.

    Raises
    ------
    InvalidArgument
        ``query_span_incomplete``, when no token holds any of `chars`, or some of `chars` may have been cut off.
    """
    first, last = chars
    inside = [at for at, (start, stop) in enumerate(offsets) if start < last and stop > first and start < stop]
    # Not asked of a whole prompt: tokenizers that compose characters leave gaps between their tokens' places.
    if not inside or (truncated and (offsets[inside[0]][0] > first or offsets[inside[-1]][1] < last)):
        message = "the prompt's tokens do not hold the whole last user message, which the query is made of."
        raise InvalidArgument(message, code="query_span_incomplete")
    return inside[0], inside[-1] + 1


def _last_user(messages: Sequence[Mapping[str, Any]]) -> int:
    for at in reversed(range(len(messages))):
        if messages[at].get("role") == "user":
            return at
    message = "a chat that is routed through a codebook needs a user message: the query is made of the last one."
    raise InvalidArgument(message, code="no_user_message")


def _empty(what: str) -> InvalidArgument:
    message = f"{what} has no text that a query could be made of."
    return InvalidArgument(message, code="empty_query_span")


def _not_found(how: str) -> InvalidArgument:
    message = f"the last user message cannot be found in the prompt for certain: the model's chat template {how}."
    return InvalidArgument(message, code="query_span_not_found")
