"""What an evaluation reads, asks and writes: cases, questions, answers and records.

A run is a file of records, one line each. Everything that is reported is computed from those lines alone, so a run can
be resumed, compared and reported on without the server.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ProbeKind(StrEnum):
    """How a case's further question relates to its edit."""

    UNRELATED = "unrelated"
    """Nothing in common: the usual locality prompt."""
    NEAR = "near"
    """Same question form, another subject."""
    SAME_SUBJECT = "same_subject"
    """Same subject, another relation."""
    PORTABILITY = "portability"
    """Needs the edited fact in one step of reasoning, or names it otherwise."""
    PERSONA = "persona"
    """The edit's question as somebody else would put it."""
    MULTI_HOP = "multi_hop"
    """Needs the edited fact and others."""
    SUB_QUESTION = "sub_question"
    """Asks for one part of a passage that was edited in (UnKE)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A further question of a case.

    Attributes
    ----------
    targets
        Answers that count as right, the canonical one first; empty when the file has none.
    """

    kind: ProbeKind
    prompt: str
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One edit of a data set with everything that can be asked about it.

    Attributes
    ----------
    case_id
        Identity within the data set.
    line
        Line of the file, from 1, or number of the row in a JSON array, from 1.
    subject
        What the edit is about; None when the file does not say.
    rephrases
        Other wordings of the prompt, none of them submitted with the edit.
    target_true
        What is true without the edit; None when the file does not say.
    """

    case_id: str
    line: int
    prompt: str
    target: str
    subject: str | None = None
    rephrases: tuple[str, ...] = ()
    target_true: str | None = None
    probes: tuple[Probe, ...] = ()


class Protocol(StrEnum):
    """How a question is asked and judged."""

    PAPER = "paper"
    """Greedy, as many tokens as the target has, token-wise match (the paper's appendix D.3)."""
    STRICT = "strict"
    """Chat template, natural stop, exact and normalised match; nothing is said of the target's length."""
    PASSAGE = "passage"
    """Free text against a reference: ROUGE, BLEU, a semantic score (UnKE)."""
    FIRE = "fire"
    """Whether an edit fires at all, and whether the answer differs from the base model's."""
    CONTINUATION = "continuation"
    """Long greedy continuation, equally long for all arms: repetition and fluency."""


class QuestionKind(StrEnum):
    """What a question stands for in the tables."""

    EDIT = "edit"
    REPHRASE = "rephrase"
    UNRELATED = "unrelated"
    NEAR = "near"
    SAME_SUBJECT = "same_subject"
    PORTABILITY = "portability"
    PERSONA = "persona"
    MULTI_HOP = "multi_hop"
    SUB_QUESTION = "sub_question"
    ORDINARY = "ordinary"
    """A chat prompt of ordinary use, not of the data set."""
    ABILITY = "ability"
    """A general question, answered with the full codebook loaded."""
    LONG_SYSTEM = "long_system"
    FEW_SHOT = "few_shot"
    TURN_1 = "turn_1"
    TURN_3 = "turn_3"
    TURN_5 = "turn_5"
    TYPO = "typo"
    SHORT = "short"
    """The first one to three tokens of an edited prompt."""
    CONTINUE = "continue"
    SUPERSEDED = "superseded"
    """An edited prompt after another edit of the same prompt took its place."""
    ROLLED_BACK = "rolled_back"
    """An edited prompt after its codebook was rolled back to the empty revision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat; `role` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request to the server.

    Attributes
    ----------
    question_id
        Unique within a run, and the same in every run with the same settings: what a resumed run has no need to ask.
    arm
        Who answers: ``base``, ``retrieval`` or a preset.
    model
        Model name of the request: base model or ``NAME@CODEBOOK``.
    checkpoint
        Edits submitted to the codebook when it is asked.
    case_id
        Case it belongs to; None for general prompts.
    position
        Place of its case in the stream of edits, from 0; None for general prompts.
    prompt
        Text of a completion; None for a chat.
    messages
        Turns of a chat; empty for a completion.
    max_tokens
        Most tokens to generate.
    min_tokens
        Fewest tokens to generate: before, the model may not end its answer. None: it ends when it likes.
    targets
        Answers that count as right, the canonical one first; empty when only the base's answer is compared.
    """

    question_id: str
    arm: str
    model: str
    checkpoint: int
    protocol: Protocol
    kind: QuestionKind
    case_id: str | None = None
    position: int | None = None
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    max_tokens: int
    min_tokens: int | None = None
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One greedy answer.

    Attributes
    ----------
    text
        Generated text, as it came.
    token_ids
        Generated token ids, the end token included when it was generated.
    prompt_token_ids
        Token ids of the prompt as the server saw it.
    finish_reason
        ``stop`` or ``length``.
    edit_id
        Edit that fired; None when none did.
    score
        Best score of the codebook; None for the base model and an empty codebook.
    revision
        Revision of the codebook that the request was routed through; None for the base model, and in records of before
        this was kept.
    seconds
        Time from request to whole answer, retries left out.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...]
    finish_reason: str
    edit_id: str | None = None
    score: float | None = None
    revision: int | None = None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of a run.

    Attributes
    ----------
    metrics
        Name to value: 0 to 1 for shares and similarities, 0 or 1 for yes and no. Which names, see `scoring`.
    expected_edit
        Edit id that should fire; None when none should, or when it is not known (the edit failed).
    """

    question: Question
    answer: Answer
    metrics: Mapping[str, float] = field(default_factory=dict)
    expected_edit: str | None = None


def as_line(record: Record) -> dict[str, Any]:
    """Return the JSON object of a record; fields that are None or empty are left out."""
    return {"question": _fields(record.question), "answer": _fields(record.answer), "metrics": dict(record.metrics)} | (
        {} if record.expected_edit is None else {"expected_edit": record.expected_edit}
    )


def from_line(line: Mapping[str, Any]) -> Record:
    """Return the record that `as_line` made an object of; KeyError or ValueError when it is none."""
    question, answer = dict(line["question"]), dict(line["answer"])
    question["messages"] = tuple(Message(**message) for message in question.get("messages", ()))
    question["targets"] = tuple(question.get("targets", ()))
    question["protocol"], question["kind"] = Protocol(question["protocol"]), QuestionKind(question["kind"])
    answer |= {name: tuple(answer.get(name, ())) for name in ("token_ids", "prompt_token_ids")}
    return Record(
        question=Question(**question),
        answer=Answer(**answer),
        metrics=dict(line["metrics"]),
        expected_edit=line.get("expected_edit"),
    )


def _fields(value: Question | Answer) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in value.__dataclass_fields__:
        item = getattr(value, name)
        if item is None or item == ():
            continue
        if name == "messages":
            item = [{"role": message.role, "content": message.content} for message in item]
        found[name] = list(item) if isinstance(item, tuple) else item
    return found
