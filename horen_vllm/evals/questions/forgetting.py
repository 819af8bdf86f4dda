"""Edits that another edit of the same prompt takes the place of, and what is left after a rollback."""

from collections.abc import Iterable
from dataclasses import dataclass

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Case, QuestionKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseding:
    """An edit that takes the place of a case's edit.

    Attributes
    ----------
    case, position
        Whose edit it takes the place of, and that one's place in the stream.
    target
        Its answer, which is that of another case.
    """

    case: Case
    position: int
    target: str

    @property
    def after(self) -> Wording:
        """The edited prompt, to which the new answer is the right one."""
        return self._wording(QuestionKind.SUPERSEDED, (self.target,))

    @property
    def undone(self) -> Wording:
        """The edited prompt, to which the base model's answer is the right one."""
        return self._wording(QuestionKind.ROLLED_BACK, ())

    def _wording(self, kind: QuestionKind, targets: tuple[str, ...]) -> Wording:
        return Wording(
            case=self.case, position=self.position, kind=kind, part=0, text=self.case.prompt, targets=targets
        )


def supersedings(chosen: Iterable[tuple[int, Case]]) -> list[Superseding]:
    """Return an edit in the place of each of the chosen ones, with the answer of the next of them that has another."""
    cases = list(chosen)
    found = []
    for number, (position, case) in enumerate(cases):
        others = (other.target for _, other in (*cases[number + 1 :], *cases[:number]))
        known = normalise_prompt(case.target)
        target = next((other for other in others if normalise_prompt(other) != known), None)
        if target is not None:
            found.append(Superseding(case=case, position=position, target=target))
    return found
