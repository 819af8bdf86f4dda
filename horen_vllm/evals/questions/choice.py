"""Which cases are asked: the same ones for every arm and way, by a seed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.evals.questions.wordings import NEGATIVES, Wording, unanswered, wordings
from horen_vllm.evals.records import Case, QuestionKind

Objection = Callable[[Wording], str | None]
"""Why a wording is not asked, as a slug; None when it is."""


def rank(seed: int, name: str) -> bytes:
    """Return a rank that only `seed` and `name` decide, on every machine."""
    return sha256(f"{seed}/{name}".encode()).digest()


class Choice:
    """A seeded choice among the cases of a stream.

    Every case has a rank that only the seed and its id decide. At a checkpoint the lowest ranks of the cases before it
    are taken: evenly over the stream, and every kind of the same cases where these have it.

    Parameters
    ----------
    objection
        Decides about the questions where no edit may fire.
    """

    def __init__(self, cases: Sequence[Case], seed: int, objection: Objection) -> None:
        self._cases = cases
        self._order = sorted(range(len(cases)), key=lambda position: rank(seed, cases[position].case_id))
        self._objection = objection
        self._successors = _successors(cases)

    def cases(self, checkpoint: int) -> list[int]:
        """Return the positions of the cases before `checkpoint`, lowest rank first.

        Of cases with the same prompt only the newest is among them: its edit has taken the place of the others'.
        """
        return [
            position for position in self._order if position < checkpoint <= self._successors.get(position, checkpoint)
        ]

    @property
    def superseded(self) -> int:
        """Cases of the stream of which another one takes the place."""
        return len(self._successors)

    def wordings(self, checkpoint: int, kind: QuestionKind, most: int) -> list[Wording]:
        """Return at most so many wordings of one kind: the first one of each case before the second one of any."""
        found: list[Wording] = []
        depth, rest = 0, self.cases(checkpoint)
        while rest:
            more = []
            for position in rest:
                kept = self._kept(position, kind)
                found += kept[depth : depth + 1]
                if len(found) == most:
                    return found
                if len(kept) > depth + 1:
                    more.append(position)
            depth, rest = depth + 1, more
        return found

    def left_out(self) -> Mapping[str, int]:
        """Count the questions of the whole stream that are never asked, by ``KIND_REASON``.

        The reasons are those of the objection, and ``no_answer`` where the file has none to judge by.
        """
        reasons = Counter[str]()
        for position, case in enumerate(self._cases):
            reasons.update(f"{kind}_no_answer" for kind in unanswered(case))
            for kind in NEGATIVES:
                for wording in wordings(case, position, kind):
                    if reason := self._objection(wording):
                        reasons[f"{kind}_{reason}"] += 1
        return reasons

    def _kept(self, position: int, kind: QuestionKind) -> list[Wording]:
        found = wordings(self._cases[position], position, kind)
        return [one for one in found if kind not in NEGATIVES or self._objection(one) is None]


def _successors(cases: Sequence[Case]) -> dict[int, int]:
    """Return the position of the next case with the same prompt, for each that has one."""
    found: dict[int, int] = {}
    newest: dict[str, int] = {}
    for position, case in enumerate(cases):
        prompt = normalise_prompt(case.prompt)
        if prompt in newest:
            found[newest[prompt]] = position
        newest[prompt] = position
    return found
