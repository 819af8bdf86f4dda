"""The questions of a whole run: the same ones for every arm."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from time import perf_counter

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.questions import general
from horen_vllm.evals.questions.choice import Choice, rank
from horen_vllm.evals.questions.drafts import BASE, RETRIEVAL, Arm, Draft, TokenIds
from horen_vllm.evals.questions.forgetting import Superseding, supersedings
from horen_vllm.evals.questions.general import GeneralPrompt
from horen_vllm.evals.questions.negatives import Stream
from horen_vllm.evals.questions.plan_settings import PlanSettings
from horen_vllm.evals.questions.retrieval import Fact, Retriever, facts_of, with_facts
from horen_vllm.evals.questions.ways import at_every_checkpoint, at_the_end, judged
from horen_vllm.evals.questions.wordings import Wording
from horen_vllm.evals.records import Case, Question, QuestionKind


class Plan:
    """Which questions are asked of whom at which checkpoint.

    Parameters
    ----------
    cases
        The stream of edits in the order of submission, at least as many as the last checkpoint.
    token_ids
        The server's tokenizer; asked for the questions that are chosen only, and once for each text.
    ordinary, ability
        Prompts of ordinary use, and questions of general ability.

    Raises
    ------
    InvalidArgument
        ``invalid_checkpoints``: there are fewer cases than the last checkpoint says.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        settings: PlanSettings,
        *,
        token_ids: TokenIds,
        ordinary: Sequence[GeneralPrompt] = (),
        ability: Sequence[GeneralPrompt] = (),
    ) -> None:
        self._last = settings.checkpoints[-1]
        if len(cases) < self._last:
            message = f"the last checkpoint is after {self._last} edits, and there are {len(cases)}."
            raise InvalidArgument(message, code="invalid_checkpoints")
        self._settings = settings
        self._cases = tuple(cases[: self._last])
        self._token_ids = lru_cache(maxsize=None)(token_ids)
        self._ordinary, self._ability = ordinary, ability
        self._choice = Choice(self._cases, settings.seed, Stream(self._cases).objection)
        self._drafts: dict[int, tuple[Draft, ...]] = {}
        self._lookups: dict[int, float] = {}

    def questions(self, arm: Arm, checkpoint: int) -> list[Question]:
        """Return what is asked of `arm`, any but the base, after so many edits."""
        drafts = self._at(checkpoint)
        if arm.name == RETRIEVAL:
            drafts = self._told(drafts, facts_of(self._cases[:checkpoint]), checkpoint)
        return [draft.question(arm, checkpoint) for draft in drafts]

    def base_questions(self, model: str) -> list[Question]:
        """Return what is asked of the base model, once: the counterpart of every question of any arm.

        `base_question_id` names the counterpart of a question.
        """
        drafts = [draft for checkpoint in self._settings.checkpoints for draft in self._at(checkpoint)]
        drafts += self._judged(one.after for one in self.supersedings)
        drafts += self._judged(one.undone for one in self.supersedings)
        return [draft.question(Arm(name=BASE, model=model), 0) for draft in {one.key: one for one in drafts}.values()]

    @cached_property
    def supersedings(self) -> tuple[Superseding, ...]:
        """The edits to submit when everything is asked: each takes the place of one in the stream."""
        chosen = self._choice.cases(self._last)[: self._settings.supersede]
        return tuple(supersedings((position, self._cases[position]) for position in chosen))

    def superseded_questions(self, arm: Arm) -> list[Question]:
        """Return what is asked of `arm` once the superseding edits are served."""
        drafts = self._judged(one.after for one in self.supersedings)
        if arm.name == RETRIEVAL:
            later = [Fact(one.case.prompt, one.target) for one in self.supersedings]
            drafts = self._told(drafts, facts_of(self._cases, later), self._last)
        return [draft.question(arm, self._last) for draft in drafts]

    def rolled_back_questions(self, arm: Arm) -> list[Question]:
        """Return what is asked of `arm` once its codebook was rolled back to the empty revision."""
        return [draft.question(arm, self._last) for draft in self._judged(one.undone for one in self.supersedings)]

    @cached_property
    def left_out(self) -> Mapping[str, int]:
        """Count the questions of the stream that are not asked, by ``KIND_REASON``; see `Choice.left_out`."""
        return self._choice.left_out()

    @property
    def lookup_seconds(self) -> Mapping[int, float]:
        """Mean time to find the facts for a question, by checkpoint: to be added to what the arm's answers took."""
        return self._lookups

    def _at(self, checkpoint: int) -> Sequence[Draft]:
        if checkpoint not in self._drafts:
            self._drafts[checkpoint] = tuple(self._made(checkpoint))
        return self._drafts[checkpoint]

    def _made(self, checkpoint: int) -> Iterator[Draft]:
        settings, last = self._settings, checkpoint == self._last
        ways = at_every_checkpoint(settings, self._token_ids)
        if last:
            ways += at_the_end(settings, self._token_ids)
        for way in ways:
            found = self._choice.wordings(checkpoint, way.source, settings.sample)
            drafts = [draft for wording in found if (draft := way.draft(wording)) is not None]
            # Many prompts begin alike, and the same beginning asked again would only weigh more.
            yield from {one.asked: one for one in drafts}.values() if way.kind is QuestionKind.SHORT else drafts
        yield from self._few(
            general.ordinary(self._ordinary, settings.form), settings.ordinary if last else settings.sample
        )
        if last:
            yield from self._few(general.ability(self._ability, settings.form), settings.sample)

    def _few(self, drafts: Sequence[Draft], most: int | None) -> Sequence[Draft]:
        """Return at most so many of the general questions, those of the lowest ranks."""
        wanted = [draft for draft in drafts if self._settings.wants(draft.protocol, draft.kind)]
        return sorted(wanted, key=lambda draft: rank(self._settings.seed, draft.key))[:most]

    def _judged(self, found: Iterable[Wording]) -> list[Draft]:
        """Return the questions that ask for the target of an edit."""
        return [
            draft
            for wording in found
            for way in judged(wording.kind, self._settings, self._token_ids)
            if self._settings.wants(way.protocol, way.kind) and (draft := way.draft(wording)) is not None
        ]

    def _told(self, drafts: Sequence[Draft], facts: Sequence[Fact], checkpoint: int) -> list[Draft]:
        """Return the questions with the facts that are found for them."""
        retriever = Retriever(facts)
        start = perf_counter()
        found = [retriever.find(draft.asked, self._settings.retrieved) for draft in drafts]
        self._lookups[checkpoint] = (perf_counter() - start) / max(1, len(drafts))
        return [with_facts(draft, few) for draft, few in zip(drafts, found, strict=True)]
