"""What is judged of an edit before it has a value, and the verdict.

Knows contexts and keys; does not know how a verdict comes about.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from horen_vllm.artifact import KeyContext
from horen_vllm.core.admission import AdmissionKind
from horen_vllm.core.anchors import Anchor
from horen_vllm.editor.codebook.balls import Ball
from horen_vllm.editor.codebook.book import EditorCodebook
from horen_vllm.editor.codebook.context_names import query_name
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.keying import Keying
from horen_vllm.ids import EditId


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """An edit with the queries of its prompts; no value is needed to judge it."""

    edit_id: EditId
    sequence: int
    """Its edit's sequence number."""
    normalised_prompt: str
    target_ids: tuple[int, ...]
    contexts: tuple[EditContext, ...]
    """Its own contexts, at least one."""
    keys: torch.Tensor
    """[contexts, width] float32, unit rows: the query of each context, before refinement."""
    foreign: tuple[EditContext, ...] = ()
    """The must-not-fire prompts in all forms."""
    foreign_queries: torch.Tensor
    """[foreign, width] float32, unit rows."""
    anchors: tuple[Anchor, ...] = ()
    """Names of its subject, one of which must occur where it fires; empty: it fires without."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A context of an earlier entry with the same target that would from now on go to the new entry."""

    edit_id: EditId
    """The edit that the earlier entry is of."""
    context: KeyContext | None
    """None where the earlier entry's artifact does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an edit that can be published means for its codebook."""

    kind: AdmissionKind
    same_as: EditId | None = None
    """The edit that already says it (SAME)."""
    alias_of: EditId | None = None
    """The edit whose value it may reuse (ALIAS)."""
    supersedes: tuple[EditId, ...] = ()
    """Edits whose entries it replaces (SUPERSEDE)."""
    overlaps: tuple[EditId, ...] = ()
    """Edits with another target into whose basin one of its contexts falls."""
    captured: tuple[Captured, ...] = ()
    """Earlier contexts in which its value will be used; it must give the target there, too."""
    threshold: float | None = None
    """The codebook's threshold once the edit is in it; None: as it is."""
    floor: float | None = None
    """Score up to which the new entry must not fire, whatever the threshold."""
    ball: Ball | None = None
    """Key and radius of the new entry of a GRACE codebook; None in all others."""


def canonical(book: EditorCodebook, prospects: Sequence[Prospect]) -> tuple[Prospect, ...]:
    """Give equal contexts (same token ids, same span, same mask) one and the same key.

    A key depends, in its last bits, on the batch that it was computed in, and the server resolves identical bits only.
    So a context that an entry of the book has takes over that entry's key, and else that of the first prospect that
    has it. Entries with anchors and entries without never compete, and share nothing.
    """
    seen: tuple[dict[bytes, torch.Tensor], ...] = ({}, {})
    result = []
    for prospect in prospects:
        key_of, known = (book.key_of, seen[0]) if not prospect.anchors else (book.anchored_key_of, seen[1])
        pairs = zip(prospect.contexts, prospect.keys, strict=True)
        keys = [_key(book.keying, key_of, known, context, key) for context, key in pairs]
        result.append(replace(prospect, keys=torch.stack(keys)))
    return tuple(result)


def _key(
    keying: Keying,
    key_of: Callable[[KeyContext, Sequence[str]], torch.Tensor | None],
    seen: dict[bytes, torch.Tensor],
    context: EditContext,
    key: torch.Tensor,
) -> torch.Tensor:
    known = key_of(context.as_key_context(), context.words)
    first = seen.setdefault(query_name(keying, context.as_key_context(), context.words), key)
    return first if known is None else known
