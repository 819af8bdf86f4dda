"""Background prompts for tests: invented names asked in a few ways."""

import random

from horen_vllm.editor.calibration.prompt import BackgroundPrompt

WORDINGS = {
    "founder": ("Who founded {}?", "The founder of {} is"),
    "river": ("Which river runs through {}?", "What river flows by {}?"),
    "mayor": ("The mayor of {} is", "Who governs {}?"),
    "age": ("How old is {}?", "What is the age of {}?"),
}


def facts(count: int, seed: int = 0) -> list[BackgroundPrompt]:
    """Return prompts with a relation, every fifth without a subject."""
    generator = random.Random(seed)

    def name() -> str:
        return "".join(generator.choice("abdeiklmnorstu") for _ in range(6)).title()

    found = []
    for number in range(count):
        if number % 5 == 4:
            found.append(BackgroundPrompt(f"{name()} {name()} {number}"))
            continue
        relation = list(WORDINGS)[number % len(WORDINGS)]
        subject = name()
        prompt, *rephrases = (wording.format(subject) for wording in WORDINGS[relation])
        found.append(BackgroundPrompt(prompt, subject, relation, tuple(rephrases)))
    return found
