"""What a context says: its words, where it names a subject, and so which tokens its query leaves out.

Reads token ids as the server does (`pieces.token_text`); does not run the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from horen_vllm.artifact import KeyContext
from horen_vllm.core.anchors import Anchor, AnchorTable, anchor_of
from horen_vllm.core.masks import SubjectMask, no_mask, subject_mask, subject_masks
from horen_vllm.core.words import TokenText
from horen_vllm.editor.contexts import EditContext
from horen_vllm.editor.failure import quoted
from horen_vllm.editor.keying import Keying
from horen_vllm.errors import InvalidArgument
from horen_vllm.pieces import token_text
from horen_vllm.registry.models import EditSpec


class Reader:
    """Reads contexts of one codebook.

    Parameters
    ----------
    tokenizer
        The base model's.
    keying
        The codebook's.
    always
        Whether contexts are read although the codebook does not need it.
    """

    def __init__(self, tokenizer: Any, keying: Keying, *, always: bool = False) -> None:
        self._tokenizer = tokenizer
        self.keying = keying
        self._reads = always or keying.reads_text

    def text(self, context: EditContext | KeyContext) -> TokenText:
        """Return the text of a context's query span; FailedPrecondition ``unsupported_tokenizer``."""
        return token_text(self._tokenizer, context.prompt_ids, context.span)

    def mask(self, text: TokenText, span: tuple[int, int], places: Sequence[tuple[int, int]]) -> SubjectMask:
        """Return what a query with this subject leaves out of a span with this text."""
        if not self.keying.parameters.mask_subject:
            return no_mask(text)
        return subject_mask(text, self.keying.window(span), places)

    def masks(
        self, text: TokenText, span: tuple[int, int], places: Mapping[int, tuple[tuple[int, int], ...]]
    ) -> dict[int, SubjectMask]:
        """Return what the query of each entry leaves out whose subject stands at some places of a span's text."""
        if not self.keying.parameters.mask_subject:
            return dict.fromkeys(places, no_mask(text))
        return subject_masks(text, self.keying.window(span), places, words=self.keying.reads_words)

    def spoken(self, context: EditContext, anchors: Sequence[Anchor] = (), *, own: bool = False) -> EditContext:
        """Return a context with its words and mask; as it is where the codebook reads no text.

        Parameters
        ----------
        anchors
            Names of the edit's subject.
        own
            Whether the edit has to fire here, so that one of them must occur.

        Raises
        ------
        InvalidArgument
            ``subject_not_found``.
        """
        if not self._reads:
            return context
        text = self.text(context)
        places = AnchorTable({0: anchors}).find([word.text for word in text.words]).get(0, ())
        if own and anchors and not places:
            message = (
                f"neither the subject nor an alias occurs in the {context.form} form of {quoted(context.text)}, "
                "so the edit could not fire there: name it as it is written there with another alias."
            )
            raise InvalidArgument(message, code="subject_not_found")
        mask = self.mask(text, context.span, places) if places else no_mask(text)
        return replace(context, masked=mask.tokens, words=mask.words)


def anchors_of(spec: EditSpec, keying: Keying) -> tuple[Anchor, ...]:
    """Return the names that an edit may only fire with; none where no subject is given or the codebook has no anchors.

    Raises
    ------
    InvalidArgument
        ``invalid_anchor``.
    """
    if not keying.parameters.anchors or not spec.subject:
        return ()
    return tuple(dict.fromkeys(anchor_of(name) for name in (spec.subject, *spec.aliases)))
