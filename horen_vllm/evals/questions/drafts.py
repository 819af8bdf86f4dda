"""A question before it is said who is asked, and when."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from horen_vllm.evals.records import Message, Protocol, Question, QuestionKind

BASE: Final = "base"
"""The arm that answers without a codebook."""
RETRIEVAL: Final = "retrieval"
"""The arm that answers without a codebook, with facts put into the prompt."""

TokenIds = Callable[[str], Sequence[int]]
"""Token ids of a text, without special tokens: the server's tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Who is asked.

    Attributes
    ----------
    name
        ``base``, ``retrieval`` or a preset.
    model
        Model name of its requests: ``NAME`` or ``NAME@CODEBOOK``.
    """

    name: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How questions are put. Lengths are the most tokens of an answer; a continuation has exactly so many.

    Attributes
    ----------
    chat
        Whether the model has a chat template; without one the strict protocol asks completions, and what only a chat
        can be asked is left out.
    strict, passage, continuation, fire, ability
        Lengths by protocol; the paper's protocol takes the target's. `ability` is for general questions.
    locality
        Length of the paper's locality questions where the file gives no answer to take it from.
    """

    chat: bool = True
    strict: int = 64
    passage: int = 512
    continuation: int = 200
    fire: int = 16
    ability: int = 64
    locality: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A question that any arm can be asked at any checkpoint. Fields as in `Question`.

    Attributes
    ----------
    part
        Number among the questions of one case, protocol and kind.
    """

    protocol: Protocol
    kind: QuestionKind
    case_id: str | None = None
    position: int | None = None
    part: int = 0
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    max_tokens: int
    min_tokens: int | None = None
    targets: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What tells it from the other questions of an arm and checkpoint, in every run."""
        # A run that was begun when no least length was asked for has other answers under the shorter key.
        length = "" if self.min_tokens is None else f"-{self.min_tokens}"
        return "/".join((self.protocol, self.kind, self.case_id or "", f"{self.part}{length}"))

    @property
    def asked(self) -> str:
        """The text that is routed: the prompt, or the last user message."""
        if self.prompt is not None:
            return self.prompt
        return next(message.content for message in reversed(self.messages) if message.role == "user")

    def question(self, arm: Arm, checkpoint: int) -> Question:
        """Return it as a question to `arm`."""
        return Question(
            question_id=question_id(arm.name, checkpoint, self.key),
            arm=arm.name,
            model=arm.model,
            checkpoint=checkpoint,
            protocol=self.protocol,
            kind=self.kind,
            case_id=self.case_id,
            position=self.position,
            prompt=self.prompt,
            messages=self.messages,
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            targets=self.targets,
        )


def question_id(arm: str, checkpoint: int, key: str) -> str:
    """Return the id of a question: ``ARM/CHECKPOINT/PROTOCOL/KIND/CASE/PART``, see `Draft.key`."""
    return f"{arm}/{checkpoint}/{key}"


def base_question_id(asked: str) -> str:
    """Return the id of the base model's question with the same key as the question with the id `asked`.

    The base model does not change, so it is asked everything once, at checkpoint 0.
    """
    return question_id(BASE, 0, asked.split("/", 2)[2])


def as_prompt(text: str, form: Form) -> tuple[str | None, tuple[Message, ...]]:
    """Return `text` as the prompt of a completion, or as the one user message of a chat."""
    return (None, (Message(role="user", content=text),)) if form.chat else (text, ())
