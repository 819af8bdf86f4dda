"""The serving benchmark's requests: prompts of one length, with a fixed number of tokens to answer.

The files in ``bench/workloads`` were written once, before the first run. Prompts are token ids, the same for all models
whose vocabulary has them; chats are texts, for the demo model's tokenizer, which all benchmarked models have. A round
puts its number where prompts cease to be alike, so that of another round's prompts nothing but the shared prefix can be
in a cache. Numbers run on over all of a run's cells.

    python -m bench.serving_workloads
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from transformers import AutoTokenizer

from horen_vllm.demo.paths import demo_model_dir

FOLDER: Final = Path(__file__).parent / "workloads"
_FIRST_ID, _IDS = 1000, 1000
"""Ordinary tokens of every vocabulary that is benchmarked."""
ROUNDS: Final = 900
"""How many rounds of a workload can be told apart, by ids below `_FIRST_ID`."""
_SHAPES: Final = {"128-128": (128, 128, 0), "32-32": (32, 32, 0), "prefix-384-32": (384, 32, 352)}
"""Name: prompt tokens, answer tokens, tokens of a prefix that all prompts share."""
CHAT: Final = "chat-384-32"
"""A system prompt that all chats share, and a question each."""
_SYSTEM_WORDS, _QUESTION_WORDS, _CHAT_ANSWER = 349, 28, 32
_MARK_DIGITS: Final = 3
"""Of a round's number: tokens of a digit each, before the words of a question."""
_REQUESTS: Final = 64

Prompt = list[int] | list[dict[str, str]]
"""Token ids, or the messages of a chat."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of one shape.

    Attributes
    ----------
    prompts
        Token ids of each prompt.
    answer
        Tokens of each answer.
    shared
        Tokens at the beginning that all prompts share, and that rounds share, too.
    span
        The tokens of each prompt that a codebook is asked about: a chat's question, else all.
    system, questions
        Of chats: the system prompt, and what each asks.
    """

    name: str
    prompts: tuple[tuple[int, ...], ...]
    answer: int
    shared: int
    span: tuple[int, int]
    system: str = ""
    questions: tuple[str, ...] = ()

    @property
    def is_chat(self) -> bool:
        """Whether its prompts are chats."""
        return bool(self.questions)

    def of_round(self, number: int) -> Sequence[Prompt]:
        """Return the prompts of a round, which no other round has.

        Raises
        ------
        ValueError
            When there are no marks left to tell rounds apart.
        """
        if not 0 <= number < ROUNDS:
            raise ValueError(f"round {number}: {ROUNDS} rounds can be told apart.")
        if self.is_chat:
            return [_chat(self.system, question, number) for question in self.questions]
        return [[*prompt[: self.shared], 1 + number, *prompt[self.shared + 1 :]] for prompt in self.prompts]


def load_workload(name: str, requests: int = _REQUESTS) -> Workload:
    """Return the first `requests` requests of a workload file by its name."""
    fields = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    prompts = tuple(tuple(prompt) for prompt in fields["prompts"][:requests])
    start, stop = fields.get("span", (0, len(prompts[0])))
    questions = tuple(fields.get("questions", ())[:requests])
    return Workload(
        name, prompts, fields["answer"], fields["shared"], (start, stop), fields.get("system", ""), questions
    )


def main(
    folder: Annotated[Path, typer.Option(help="Where the files go.")] = FOLDER,
    seed: Annotated[int, typer.Option(help="Of the token ids.")] = 8,
) -> None:
    """Write the workload files; those of token ids are the same at every call with a seed, and so are the chats."""
    generator = np.random.default_rng(seed)
    for name, (length, answer, shared) in _SHAPES.items():
        prompts = generator.integers(_FIRST_ID, _FIRST_ID + _IDS, (_REQUESTS, length))
        prompts[:, :shared] = prompts[0, :shared]
        text = json.dumps({"answer": answer, "shared": shared, "prompts": prompts.tolist()})
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"{CHAT}.json").write_text(json.dumps(made_chats(seed)) + "\n", encoding="utf-8")


def made_chats(seed: int) -> dict[str, Any]:
    """Return the file of chats: of words that are a token each to the demo model's tokenizer."""
    tokenizer: Any = AutoTokenizer.from_pretrained(demo_model_dir(), local_files_only=True)
    words = sorted(word[1:] for word in tokenizer.get_vocab() if word[0] == "\u0120" and word[1:].isalpha())
    generator = np.random.default_rng(seed)

    def said(count: int) -> str:
        return "".join(f" {word}" for word in generator.choice(words, count))

    system = said(_SYSTEM_WORDS)
    questions = [said(_QUESTION_WORDS) for _ in range(_REQUESTS)]
    prompts = [
        tokenizer.apply_chat_template(_chat(system, question, 0), add_generation_prompt=True)["input_ids"]
        for question in questions
    ]
    # The first token, and the marks of a system prompt and of a question.
    start = _SYSTEM_WORDS + 3
    span = start, start + _MARK_DIGITS + _QUESTION_WORDS
    wrong = {len(prompt) for prompt in prompts} - {span[1] + 1}
    assert not wrong, f"chats of {wrong} tokens"
    return {
        "answer": _CHAT_ANSWER,
        "shared": start,
        "span": span,
        "system": system,
        "questions": questions,
        "prompts": prompts,
    }


def _chat(system: str, question: str, number: int) -> list[dict[str, str]]:
    mark = f"{number:0{_MARK_DIGITS}}"
    return [{"role": "system", "content": system}, {"role": "user", "content": f"{mark}{question}"}]


if __name__ == "__main__":
    typer.run(main)
