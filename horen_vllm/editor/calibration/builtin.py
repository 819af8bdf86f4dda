"""The built-in background: the project's own text, ``builtin.json``, expanded the same way every time.

The file's keys::

    subjects    kind of subject -> names of that kind
    relations   relation id -> {"kind": kind of its subjects, "wordings": prompts with {subject}}
    others      prompts about no subject: chat, how-to, code, sums, writing, trivia, in several languages

No two relations of a kind ask the same, and no two of the others do, in whatever language: a prompt that fires for
another one is a false fire.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypedDict

from horen_vllm.editor.calibration.prompt import BackgroundPrompt

_FILE: Final = Path(__file__).resolve().parent / "builtin.json"
_SEED: Final = 2605
_SUBJECTS_PER_RELATION: Final = 30
"""At most: no relation shall dominate."""


class _Relation(TypedDict):
    kind: str
    wordings: list[str]


class _Content(TypedDict):
    subjects: dict[str, list[str]]
    relations: dict[str, _Relation]
    others: list[str]


def expanded() -> tuple[BackgroundPrompt, ...]:
    """Return every built-in prompt, in an order of which each beginning is a sample of the whole."""
    content: _Content = json.loads(_FILE.read_text(encoding="utf-8"))
    generator = random.Random(_SEED)
    prompts = [BackgroundPrompt(text) for text in content["others"]]
    for name, relation in content["relations"].items():
        prompts += _asked(name, relation, content["subjects"], generator)
    generator.shuffle(prompts)
    return tuple(prompts)


def _asked(
    name: str, relation: _Relation, subjects: Mapping[str, Sequence[str]], generator: random.Random
) -> Iterator[BackgroundPrompt]:
    """Yield the relation's prompts, each in a wording drawn for its subject."""
    names = subjects[relation["kind"]]
    for subject in generator.sample(names, min(len(names), _SUBJECTS_PER_RELATION)):
        wordings = [wording.format(subject=subject) for wording in relation["wordings"]]
        prompt = wordings.pop(generator.randrange(len(wordings)))
        yield BackgroundPrompt(prompt, subject, name, tuple(wordings))
