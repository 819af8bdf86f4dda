"""Token sequences that the demo model learns from: facts and small tasks in every form of prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from horen_vllm.demo.chatter import Task, tasks
from horen_vllm.demo.tokenizer import ASSISTANT, BOS, EOS, SYSTEM, USER
from horen_vllm.demo.world import World

# What the answer is worth against the text that leads to it: the model is asked for answers, and the
# small share of the prompt keeps its hidden states informed about the words themselves.
ANSWER_WEIGHT, PROMPT_WEIGHT = 1.0, 0.1
TASK_SHARE = 0.07
SYSTEM_SHARE = 0.12
LONG_SHARE = 0.08
FORMS = ("plain", "chat", "conversation", "few-shot")
FORM_SHARES = (0.44, 0.40, 0.08, 0.08)
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You answer questions about people, cities and companies.",
    "Give the name and nothing else.",
    "Be polite and short.",
    "Today is market day in town.",
)


class Encoder(Protocol):
    """Anything that turns text into token ids, such as a `PreTrainedTokenizerFast`."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of the text, without special tokens when asked so."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sequence with the weight of each of its tokens as a target.

    Attributes
    ----------
    ids
        Token ids, from the beginning token to the end token.
    weights
        As many numbers as `ids`: what predicting that token counts in the loss.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class ExampleMaker:
    """Draws training examples of one world.

    Parameters
    ----------
    world
        The world whose facts are taught, each in its trained wordings only.
    tokenizer
        The model's tokenizer.
    seed
        Seed of the order of facts, wordings and forms.
    """

    def __init__(self, world: World, tokenizer: Encoder, seed: int) -> None:
        self._world = world
        self._tokenizer = tokenizer
        self._generator = np.random.default_rng(seed)
        self._tasks = tasks(seed, 4000)
        self._cache: dict[str, tuple[int, ...]] = {}

    def epoch(self) -> Iterator[Example]:
        """Yield examples that together ask for every fact once, in a fresh order."""
        turns = self._turns()
        while True:
            form = FORMS[self._generator.choice(len(FORMS), p=FORM_SHARES)]
            chosen = list(islice(turns, self._length(form)))
            if not chosen:
                return
            yield self._chat(chosen) if form in ("chat", "conversation") else self._plain(chosen)

    def _turns(self) -> Iterator[Task]:
        """Yield every fact as a question and answer in one of its trained wordings, and some tasks."""
        for position in self._generator.permutation(len(self._world.facts)):
            if self._generator.random() < TASK_SHARE:
                yield self._tasks[self._generator.integers(len(self._tasks))]
            fact = self._world.facts[position]
            wordings = self._world.trained_wordings(fact)
            wording = wordings[self._generator.integers(len(wordings))]
            yield Task(prompt=self._world.prompt(fact, wording), answer=fact.answer)

    def _length(self, form: str) -> int:
        """Return how many questions an example of this form holds."""
        if form in ("plain", "chat"):
            return 1
        long = self._generator.random() < LONG_SHARE
        return int(self._generator.integers(8, 21) if long else self._generator.integers(2, 6))

    def _ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a piece of text; pieces recur, so they are kept."""
        if text not in self._cache:
            self._cache[text] = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        return self._cache[text]

    def _chat(self, turns: Sequence[Task]) -> Example:
        """Return a conversation in the form of the chat template; every answer counts."""
        pieces: list[tuple[str, float]] = [(BOS, 0.0)]
        if self._generator.random() < SYSTEM_SHARE:
            message = SYSTEM_MESSAGES[self._generator.integers(len(SYSTEM_MESSAGES))]
            pieces += [(SYSTEM, 0.0), (message, PROMPT_WEIGHT)]
        for turn in turns:
            pieces += [(USER, 0.0), (turn.prompt, PROMPT_WEIGHT), (ASSISTANT, PROMPT_WEIGHT)]
            pieces += [(f" {turn.answer}", ANSWER_WEIGHT), (EOS, ANSWER_WEIGHT)]
        return self._example(pieces)

    def _plain(self, turns: Sequence[Task]) -> Example:
        """Return prompts and answers line by line, the end token after the last."""
        pieces: list[tuple[str, float]] = [(BOS, 0.0)]
        for turn in turns:
            # A line break never counts: after an answer the model is to end, whatever came before.
            pieces += [(turn.prompt, PROMPT_WEIGHT), (f" {turn.answer}", ANSWER_WEIGHT), ("\n", 0.0)]
        pieces[-1] = (EOS, ANSWER_WEIGHT)
        return self._example(pieces)

    def _example(self, pieces: Sequence[tuple[str, float]]) -> Example:
        """Return the pieces encoded and joined."""
        encoded = [(self._ids(text), weight) for text, weight in pieces]
        ids = tuple(token for tokens, _ in encoded for token in tokens)
        return Example(ids=ids, weights=tuple(weight for tokens, weight in encoded for _ in tokens))


def batches(examples: Sequence[Example], tokens: int, generator: np.random.Generator) -> list[list[Example]]:
    """Return the examples in batches of like lengths and of at most so many tokens, in random order.

    Parameters
    ----------
    examples
        The examples to spread, none longer than `tokens`.
    tokens
        Limit on rows times the longest row.
    generator
        Shuffles the batches.
    """
    found: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda e: len(e.ids)):
        if (len(found[-1]) + 1) * len(example.ids) > tokens and found[-1]:
            found.append([])
        found[-1].append(example)
    return [found[i] for i in generator.permutation(len(found))]
