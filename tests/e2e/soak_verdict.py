"""The soak's judge: each response against the oracle at the revision that its admission pinned."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.oracle import Oracle, OracleAnswer, OracleBook
from tests.e2e.soak_engine import Choice, Sent
from tests.e2e.soak_load import EOS, Ask

LOGIT_TIE = 1e-3
LOGPROB_TOLERANCE = 2e-4
SCORE_TOLERANCE = 1e-4


@dataclass
class Judge:
    """Collects verdicts; `revisions` gives every codebook's books by revision.

    With `first_scores` the score that is told may be the one before refinement, unless nearest entries are asked for.
    """

    oracle: Oracle
    revisions: Mapping[str, Mapping[int, OracleBook]]
    first_scores: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def judge(self, sent: Sent) -> None:
        """Compare a finished request, or what an aborted one had said, with the oracle."""
        for index, choice in enumerate(sent.choices):
            complaint = self._judge_partial(sent.ask, choice) if sent.aborted else self._judge(sent.ask, choice)
            if complaint:
                self.wrong.append(f"{_name(sent, index)}: {complaint}")

    def _judge(self, ask: Ask, choice: Choice) -> str | None:
        self.counts["responses"] += 1
        if choice.admitted_at is None:
            return "finished without having been admitted"
        expected = self._expected(ask, choice)
        self.counts["tagged"] += ask.codebook in choice.admitted_at
        self.counts["asked_of_a_dropped_codebook"] += ask.codebook not in (None, *choice.admitted_at)
        self.counts["matched"] += expected.edit_id is not None
        self.counts["past_a_chunk"] += 1 < expected.share < len(expected.tokens)
        complaint = self._decision(ask, choice, expected)
        if complaint == "tie":
            self.counts["routing_ties"] += 1
            return None
        return complaint or self._tokens(ask, choice, expected)

    def _judge_partial(self, ask: Ask, choice: Choice) -> str | None:
        if choice.admitted_at is None or not choice.tokens:
            return None
        self.counts["partial"] += 1
        expected = self._expected(ask, choice)
        first = _first_difference(choice.tokens, expected.tokens)
        tie = expected.routing_tie or (first is not None and expected.logit_gaps[first] < LOGIT_TIE)
        return None if first is None or tie else f"said {choice.tokens} before the abort, not {expected.tokens}"

    def _expected(self, ask: Ask, choice: Choice) -> OracleAnswer:
        assert choice.admitted_at is not None
        pinned = choice.admitted_at.get(ask.codebook or "")
        book = None if ask.codebook is None or pinned is None else self.revisions[ask.codebook][pinned]
        return self.oracle.answer(ask.prompt, book, ask.max_tokens, -1 if ask.ignore_eos else EOS, ask.span)

    def _decision(self, ask: Ask, choice: Choice, expected: OracleAnswer) -> str | None:
        decision = choice.decision
        assert choice.admitted_at is not None
        if ask.codebook is None or decision is None:
            return None if ask.codebook is None and decision is None else f"decision {decision}"
        # A codebook that had been dropped by then has no revision, and edits nothing.
        revision = choice.admitted_at.get(ask.codebook)
        if (decision["codebook"], decision["revision"]) != (ask.codebook, revision):
            return f"answered by {decision['codebook']} at revision {decision['revision']}"
        if decision["edit_id"] != expected.edit_id:
            return "tie" if expected.routing_tie else f"{decision} instead of {expected.edit_id} at {expected.score}"
        if revision is None:
            return None
        if decision["threshold"] != expected.threshold or not self._score_is_right(ask, decision["score"], expected):
            return f"{decision} instead of score {expected.score} against {expected.threshold}"
        return _explanation(ask, decision, expected) if ask.explain else None

    def _score_is_right(self, ask: Ask, score: float | None, expected: OracleAnswer) -> bool:
        if _close(score, expected.score):
            return True
        first = self.first_scores and not ask.explain and _close(score, expected.first_score)
        self.counts["first_scores"] += first
        return first

    def _tokens(self, ask: Ask, choice: Choice, expected: OracleAnswer) -> str | None:
        first = _first_difference(choice.tokens, expected.tokens)
        stopped = ask.stop_text is not None and choice.stop_reason == ask.stop_text
        self.counts["stopped_by_text"] += stopped
        if first is not None and expected.logit_gaps[first] < LOGIT_TIE:
            self.counts["token_ties"] += 1
            return None
        if first is not None or (len(choice.tokens) != len(expected.tokens) and not stopped):
            return f"{choice.tokens} instead of {expected.tokens} (fired {expected.edit_id})"
        if stopped and str(ask.stop_text) in choice.text:
            return f"text {choice.text!r} goes on past {ask.stop_text!r}"
        if ask.logprobs is None:
            return None
        self.counts["logprobs"] += 1
        pairs = zip(choice.logprobs, expected.logprobs, strict=False)
        worst = max((abs(here - there) for here, there in pairs), default=math.inf)
        return f"logprobs differ by {worst}" if worst > LOGPROB_TOLERANCE else None

    def summary(self) -> dict[str, Any]:
        """Return the counts and the first mistakes."""
        return {**dict(self.counts), "wrong": len(self.wrong), "first_wrong": self.wrong[:5]}


def _name(sent: Sent, index: int) -> str:
    ask, admitted_at = sent.ask, sent.choices[index].admitted_at or {}
    revision = admitted_at.get(ask.codebook or "")
    return f"{sent.name}[{index}] {len(ask.prompt)} tokens, span {ask.span}, {ask.codebook} at {revision}"


def _explanation(ask: Ask, decision: dict[str, Any], expected: OracleAnswer) -> str | None:
    start, stop = ask.span or (0, len(ask.prompt))
    window = [stop - math.ceil(ask.ratio * (stop - start)), stop]
    nearest = [row["edit_id"] for row in decision["nearest"]]
    if decision["window"] != window:
        return f"window {decision['window']} instead of {window}"
    if (nearest[:1] != [expected.best_id] if expected.best_id else nearest) and not expected.routing_tie:
        return f"nearest {nearest} instead of {expected.best_id}"
    return None


def _close(served: float | None, expected: float) -> bool:
    if served is None or math.isinf(expected):
        return served is None and math.isinf(expected)
    return abs(served - expected) < SCORE_TOLERANCE


def _first_difference(here: Sequence[int], there: Sequence[int]) -> int | None:
    return next((index for index, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), None)
