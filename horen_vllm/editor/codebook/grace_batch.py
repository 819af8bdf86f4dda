"""The judge of a batch of edits of a GRACE codebook, with the face of `judge.Judge`.

Knows the book; the rules are in `grace`.
"""

from collections.abc import Sequence

from horen_vllm.core.euclid import LIFT
from horen_vllm.editor.codebook.balls import GraceEntry
from horen_vllm.editor.codebook.book import EditorCodebook
from horen_vllm.editor.codebook.grace import GraceEdit, GraceJudge, GraceVerdict
from horen_vllm.editor.codebook.prospect import Prospect, Verdict, canonical
from horen_vllm.editor.failure import EditFailed


class GraceBatch:
    """Judges a batch of edits, one after the other, while the codebook grows.

    Parameters
    ----------
    book
        The codebook.
    prospects
        The edits, in the order in which they are to be judged.
    """

    def __init__(self, book: EditorCodebook, prospects: Sequence[Prospect]) -> None:
        self._book = book
        self.prospects = canonical(book, prospects)

    def verdict(self, index: int, *, own_key: bool = False) -> Verdict:
        """Judge a prospect against the codebook as it is now.

        Parameters
        ----------
        own_key
            Whether it is to have a key of its own even where it could reuse another's value.

        Raises
        ------
        EditFailed
            As `grace.GraceJudge.verdict`; ``one_prompt_only``, for an edit with paraphrases.
        """
        prospect = self.prospects[index]
        if len(prospect.contexts) != 1:
            message = "the preset grace keys one prompt an edit: submit its paraphrases as edits of their own."
            raise EditFailed(message, code="one_prompt_only")
        judge = GraceJudge(self._first_radius, self._book.arena.keys, list(self._entries()))
        return _verdict(judge.verdict(_edit(prospect), own_key=own_key))

    @property
    def _first_radius(self) -> float:
        radius = self._book.parameters.radius
        assert radius is not None, "only GRACE codebooks come here"
        return radius

    def _entries(self) -> list[GraceEntry]:
        return [
            GraceEntry(existing, self._book.rows(sequence)[0], *self._book.balls[sequence])
            for sequence, existing in self._book.existing.items()
        ]


def _edit(prospect: Prospect) -> GraceEdit:
    return GraceEdit(
        sequence=prospect.sequence,
        normalised_prompt=prospect.normalised_prompt,
        target_ids=prospect.target_ids,
        query=prospect.keys[0, :-LIFT],
        foreign_texts=tuple(context.text for context in prospect.foreign),
        foreign_queries=prospect.foreign_queries[:, :-LIFT] if len(prospect.foreign) else None,
    )


def _verdict(found: GraceVerdict) -> Verdict:
    return Verdict(
        kind=found.kind,
        same_as=found.same_as,
        alias_of=found.alias_of,
        supersedes=found.supersedes,
        overlaps=found.overlaps,
        ball=found.ball,
    )
