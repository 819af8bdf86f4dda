"""A small stream of edits for the tests of questions."""

from dataclasses import dataclass

from horen_vllm.evals.records import Case, Probe, ProbeKind


@dataclass(frozen=True)
class Line:
    """A line of a file of prompts."""

    prompt: str
    answers: tuple[str, ...] = ()


def words(text: str) -> tuple[int, ...]:
    """A tokenizer with one token a word."""
    return tuple(range(len(text.split())))


def towns(count: int) -> list[Case]:
    """Cases about distinct subjects, each with a rephrase and two negatives."""
    return [
        Case(
            case_id=f"town{number}",
            line=number + 1,
            subject=f"Town{number}",
            prompt=f"Who runs Town{number}?",
            target=f"Mayor Number{number}",
            rephrases=(f"Town{number} is run by whom?", f"Name the head of Town{number}."),
            probes=(
                Probe(kind=ProbeKind.UNRELATED, prompt=f"How deep is lake {number}?", targets=("3 m",)),
                Probe(kind=ProbeKind.NEAR, prompt=f"Who runs Village{number}?"),
                Probe(kind=ProbeKind.PORTABILITY, prompt=f"Who lives with the head of Town{number}?", targets=("Ida",)),
            ),
        )
        for number in range(count)
    ]
