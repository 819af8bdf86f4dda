"""The demo's facts as a file of edits, as ``horen eval jsonl`` reads one."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from horen_vllm.cli.demo_choice import Choice, choose
from horen_vllm.demo.draws import shuffled
from horen_vllm.demo.world import Fact, World, build_world
from horen_vllm.errors import InvalidArgument


def write_edits(path: Path, count: int, seed: int) -> None:
    """Write the `count` facts that ``horen demo`` edits with this seed, and what may be asked beside them.

    Raises
    ------
    InvalidArgument
        ``file_unusable``: it cannot be written.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(count, seed))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise InvalidArgument(f"{path} cannot be written: {exc.strerror or exc}.", code="file_unusable") from exc


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the edits: each with a rephrase, and with three questions that no edit may answer.

    `near` is the edit's question about a subject that no edit is about, `same_subject` another question about its own,
    and `unrelated` is a greeting, a sum or the like.
    """
    world = build_world()
    choices = choose(count, seed, world)
    others = _Others(world, choices)
    for choice, unrelated in zip(choices, world.unrelated_prompts(seed, count), strict=True):
        fact = world.facts[choice.fact_id]
        yield {
            "id": f"fact-{fact.fact_id}",
            "subject": fact.subject,
            "prompt": choice.prompt,
            "target": choice.target,
            "target_true": fact.answer,
            "rephrases": [choice.paraphrase],
            "near": [_asked(world, other) for other in others.near(fact, seed)],
            "same_subject": [_asked(world, other) for other in others.same_subject(fact)],
            "unrelated": [unrelated],
        }


class _Others:
    """The facts that nobody edits."""

    def __init__(self, world: World, choices: Sequence[Choice]) -> None:
        edited = {choice.fact_id for choice in choices}
        self._subjects = {choice.subject for choice in choices}
        self._facts = [fact for fact in world.facts if fact.fact_id not in edited]

    def near(self, fact: Fact, seed: int) -> Sequence[Fact]:
        found = (it for it in self._facts if it.relation == fact.relation and it.subject not in self._subjects)
        return shuffled(tuple(found), seed, "near", fact.fact_id)[:1]

    def same_subject(self, fact: Fact) -> Sequence[Fact]:
        return [it for it in self._facts if it.subject == fact.subject][:1]


def _asked(world: World, fact: Fact) -> dict[str, str]:
    return {"prompt": world.prompt(fact, world.trained_wordings(fact)[0]), "target": fact.answer}
