"""Openings: short neutral texts that may stand in front of a question without changing its answer.

Knows texts only. An edit that must hold behind other text is keyed and trained behind a few of these, too.
"""

import hashlib
from typing import Final

from horen_vllm.core.admission import normalise_prompt

OPENINGS: Final = (
    "Hello there.",
    "Quick question:",
    "Good morning, I have a question.",
    "Please answer briefly.",
    "Next question:",
    "hey, one thing:",
    "I was reading about this yesterday.",
    "Thanks for your help so far.",
    "For my homework, I need to know:",
    "The weather is nice today.",
    "Let us change the subject.",
    "Note 4, page 12.",
    "# Notes\n\n",
    "- item one\n- item two\n",
    "He put the letter on the table.",
    "According to the minutes of the meeting:",
    "Eine kurze Frage:",
    "Bonjour, une petite question.",
    "Tengo una pregunta.",
    "Ещё один вопрос.",
    "请问一下。",
    "ちょっと質問です。",
    "سؤال سريع:",
    "एक छोटा सा सवाल।",
)
"""Several registers, languages and scripts, so that tokenizers of every kind see varied text in front."""


def openings(prompt: str, count: int) -> tuple[str, ...]:
    """Return `count` different openings for a prompt (all of them when there are fewer).

    They depend on the normalised prompt alone, so one edit gets the same ones in every batch, process and machine;
    a larger `count` only adds to those of a smaller one.
    """
    normalised = normalise_prompt(prompt)

    def place(opening: str) -> bytes:
        return hashlib.sha256(f"{opening}\n{normalised}".encode("utf-8", "surrogatepass")).digest()

    return tuple(sorted(OPENINGS, key=place)[:count])
