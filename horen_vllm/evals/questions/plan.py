"""The questions of a whole run: the same ones for every arm."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from time import perf_counter

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.questions import general
from horen_vllm.evals.questions.asked import with_room
from horen_vllm.evals.questions.choice import Choice, rank
from horen_vllm.evals.questions.drafts import BASE, RETRIEVAL, Arm, Draft, TokenIds, question_id
from horen_vllm.evals.questions.forgetting import Superseding, supersedings
from horen_vllm.evals.questions.general import GeneralPrompt
from horen_vllm.evals.questions.negatives import Stream
from horen_vllm.evals.questions.plan_settings import PlanSettings
from horen_vllm.evals.questions.retrieval import Fact, Retriever, facts_of, with_facts
from horen_vllm.evals.questions.ways import Way, at_every_checkpoint, at_the_end, judged
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
        stream = Stream(self._cases)
        self._choice = Choice(self._cases, settings.seed, stream.objection)
        self._general = {
            QuestionKind.ORDINARY: general.ordinary(ordinary, settings.form),
            QuestionKind.ABILITY: general.ability(ability, settings.form),
        }
        self._edited = {
            kind: [draft for draft in drafts if stream.is_edited(draft.asked)] for kind, drafts in self._general.items()
        }
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

    def question_ids(self, arm: str) -> list[str]:
        """Return the ids of everything that an arm, any but the base, is asked in a run."""
        keys = [(checkpoint, draft.key) for checkpoint in self._settings.checkpoints for draft in self._at(checkpoint)]
        ends = [one.after for one in self.supersedings]
        if arm != RETRIEVAL:
            ends += [one.undone for one in self.supersedings]
        keys += [(self._last, draft.key) for draft in self._judged(ends)]
        return [question_id(arm, checkpoint, key) for checkpoint, key in keys]

    @cached_property
    def left_out(self) -> Mapping[str, int]:
        """Count the questions of the stream that are not asked, by ``KIND_REASON``; see `Choice.left_out`.

        ``ordinary_edited_prompt`` and ``ability_edited_prompt`` are those general prompts that are an edit's own.
        """
        general_prompts = {f"{kind}_edited_prompt": len(drafts) for kind, drafts in self._edited.items() if drafts}
        return {**self._choice.left_out(), **general_prompts}

    def notes(self) -> list[str]:
        """Return what a reader must know of what is not asked."""
        notes = [
            f"{count} questions of the stream are not asked: {reason.replace('_', ' ')}."
            for reason, count in sorted(self.left_out.items())
        ]
        if superseded := self._choice.superseded:
            notes.append(
                f"{superseded} edits of the stream are taken the place of by a later one of the same prompt, and are "
                f"not asked about from then on."
            )
        return notes

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
            drafts = self._drafted(way, found)
            # Many prompts begin alike, and the same beginning asked again would only weigh more.
            yield from {one.asked: one for one in drafts}.values() if way.kind is QuestionKind.SHORT else drafts
        yield from self._few(QuestionKind.ORDINARY, settings.ordinary if last else settings.sample)
        if last:
            yield from self._few(QuestionKind.ABILITY, settings.sample)

    def _few(self, kind: QuestionKind, most: int | None) -> Sequence[Draft]:
        """Return at most so many of the general questions of a kind, those of the lowest ranks."""
        edited = {draft.key for draft in self._edited[kind]}
        drafts = [draft for draft in self._general[kind] if draft.key not in edited]
        wanted = [draft for draft in drafts if self._settings.wants(draft.protocol, draft.kind)]
        return sorted(wanted, key=lambda draft: rank(self._settings.seed, draft.key))[:most]

    def _judged(self, found: Iterable[Wording]) -> list[Draft]:
        """Return the questions that ask for the target of an edit."""
        return [
            draft
            for wording in found
            for way in judged(wording.kind, self._settings, self._token_ids)
            if self._settings.wants(way.protocol, way.kind)
            for draft in self._drafted(way, [wording])
        ]

    def _drafted(self, way: Way, found: Iterable[Wording]) -> list[Draft]:
        drafts = (way.draft(wording) for wording in found)
        return [with_room(draft, self._token_ids) for draft in drafts if draft is not None]

    def _told(self, drafts: Sequence[Draft], facts: Sequence[Fact], checkpoint: int) -> list[Draft]:
        """Return the questions with the facts that are found for them."""
        retriever = Retriever(facts)
        start = perf_counter()
        found = [retriever.find(draft.asked, self._settings.retrieved) for draft in drafts]
        self._lookups[checkpoint] = (perf_counter() - start) / max(1, len(drafts))
        return [with_facts(draft, few) for draft, few in zip(drafts, found, strict=True)]
