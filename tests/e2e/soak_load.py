"""What the soak's clients ask: seeded conversations whose prompts share prefixes and contradict each other's facts."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BOS, EOS, USER, ASSISTANT, SYSTEM = 1, 2, 3, 4, 5
CONTENT = range(10, 1000)
TOPIC_LENGTHS = (1, 2, 3, 5, 8, 9, 17, 24, 31, 32, 33, 40, 63, 64, 65, 96)
SYSTEM_LENGTHS = (0, 40, 90)
LONGEST_PROMPT = 400


@dataclass(frozen=True)
class Ask:
    """One request: what is sent, and how."""

    prompt: tuple[int, ...]
    span: tuple[int, int] | None
    codebook: str | None
    max_tokens: int
    ratio: float = 0.6
    n: int = 1
    logprobs: int | None = None
    stream: bool = False
    ignore_eos: bool = False
    stop_text: str | None = None
    explain: int = 0
    abort_after: int | None = None
    """Engine steps after which the client hangs up."""
    conversation: int = -1
    turns_left: int = 0


@dataclass(frozen=True)
class Topic:
    """Something to ask about: the tokens of the question."""

    tokens: tuple[int, ...]

    def forms(self, prefixes: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...], tuple[int, int] | None]]:
        """Return prompt and span of every form in which it is asked first: completion, and chat after each prefix."""
        return [(self.tokens, None), *(chat_turn(prefix, self.tokens) for prefix in prefixes)]


def chat_turn(history: tuple[int, ...], question: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Return the prompt that asks `question` after `history`, and the span of the question in it."""
    start = len(history) + 1
    return (*history, USER, *question, ASSISTANT), (start, start + len(question))


@dataclass
class Load:
    """A seeded stream of requests over codebooks, given with their window ratios.

    `stop_texts` are strings that answers may contain.
    """

    seed: int
    codebooks: Mapping[str, float]
    stop_texts: Sequence[str] = ()
    parallel_share: float = 0.12
    """Share of requests with n = 2."""
    topics: list[Topic] = field(init=False)
    prefixes: list[tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        draw = self._random.choices
        stem = tuple(draw(CONTENT, k=24))
        # Half of the topics begin with the same words, as questions about one subject do.
        self.topics = [
            Topic(((stem + tuple(draw(CONTENT, k=length)))[:length]) if index % 2 else tuple(draw(CONTENT, k=length)))
            for index, length in enumerate(TOPIC_LENGTHS)
        ]
        self.topics = [Topic((*topic.tokens[:-1], CONTENT[300 + i])) for i, topic in enumerate(self.topics)]
        system = tuple(draw(CONTENT, k=max(SYSTEM_LENGTHS)))
        self.prefixes = [(BOS, SYSTEM, *system[:length]) if length else (BOS,) for length in SYSTEM_LENGTHS]
        self._conversations = 0

    def opening(self) -> Ask:
        """Return the first request of a new conversation, or a completion."""
        topic = self._random.choice(self.topics)
        prompt, span = self._random.choice(topic.forms(self.prefixes))
        self._conversations += 1
        turns = self._random.choice((0, 1, 2)) if span else 0
        return self._ask(prompt, span, self._codebook(), turns, self._conversations)

    def following(self, last: Ask, answer: Sequence[int]) -> Ask | None:
        """Return the conversation's next request, whose history holds `answer`; None when it is over."""
        said = (*answer, EOS) if EOS not in answer else tuple(answer)
        prompt, span = chat_turn((*last.prompt, *said), self._random.choice(self.topics).tokens)
        if last.turns_left == 0 or len(prompt) > LONGEST_PROMPT:
            return None
        # Often the same conversation goes on under another codebook: its history then holds a foreign edit.
        codebook = last.codebook if self._random.random() < 0.6 else self._codebook()
        return self._ask(prompt, span, codebook, last.turns_left - 1, last.conversation)

    def _codebook(self) -> str | None:
        return None if self._random.random() < 0.12 else self._random.choice(tuple(self.codebooks))

    def _ask(
        self, prompt: tuple[int, ...], span: tuple[int, int] | None, codebook: str | None, turns: int, number: int
    ) -> Ask:
        chance = self._random.random
        stop = self._random.choice(self.stop_texts) if self.stop_texts and chance() < 0.15 else None
        return Ask(
            prompt,
            # A clean request has no query; its prompt is what matters to its neighbours' caches.
            span if codebook else None,
            codebook,
            max_tokens=self._random.choice((1, 2, 5, 9, 14, 24, 40, 64)),
            ratio=self.codebooks[codebook] if codebook else 1.0,
            n=2 if chance() < self.parallel_share else 1,
            logprobs=2 if chance() < 0.35 else None,
            stream=chance() < 0.3,
            # Unedited answers are short; these keep their blocks for long.
            ignore_eos=chance() < 0.45,
            stop_text=stop,
            explain=3 if codebook and chance() < 0.1 else 0,
            abort_after=self._random.randrange(1, 12) if chance() < 0.08 else None,
            conversation=number,
            turns_left=turns,
        )
