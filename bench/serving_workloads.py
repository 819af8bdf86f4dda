"""The serving benchmark's requests: prompts as token ids, all of one length, with a fixed number of tokens to answer.

The files in ``bench/workloads`` were written once, before the first run, and are the same for all models whose
vocabulary has the ids. A round puts its number into the first token that prompts do not share, so that of another
round's prompts nothing but the shared prefix can be in a cache. Numbers run on over all of a run's cells.

    python -m bench.serving_workloads
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

FOLDER: Final = Path(__file__).parent / "workloads"
_FIRST_ID, _IDS = 1000, 1000
"""Ordinary tokens of every vocabulary that is benchmarked."""
ROUNDS: Final = 900
"""How many rounds of a workload can be told apart, by ids below `_FIRST_ID`."""
_SHAPES: Final = {"128-128": (128, 128, 0), "32-32": (32, 32, 0), "prefix-384-32": (384, 32, 352)}
"""Name: prompt tokens, answer tokens, tokens of a prefix that all prompts share."""
_REQUESTS: Final = 64


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
    """

    name: str
    prompts: tuple[tuple[int, ...], ...]
    answer: int
    shared: int

    def of_round(self, number: int) -> list[list[int]]:
        """Return the prompts of a round, which no other round has.

        Raises
        ------
        ValueError
            When there are no marks left to tell rounds apart.
        """
        if not 0 <= number < ROUNDS:
            raise ValueError(f"round {number}: {ROUNDS} rounds can be told apart.")
        return [[*prompt[: self.shared], 1 + number, *prompt[self.shared + 1 :]] for prompt in self.prompts]


def load_workload(name: str, requests: int = _REQUESTS) -> Workload:
    """Return the first `requests` requests of a workload file by its name."""
    fields = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    prompts = tuple(tuple(prompt) for prompt in fields["prompts"][:requests])
    return Workload(name, prompts, fields["answer"], fields["shared"])


def main(
    folder: Annotated[Path, typer.Option(help="Where the files go.")] = FOLDER,
    seed: Annotated[int, typer.Option(help="Of the token ids.")] = 8,
) -> None:
    """Write the workload files."""
    generator = np.random.default_rng(seed)
    for name, (length, answer, shared) in _SHAPES.items():
        prompts = generator.integers(_FIRST_ID, _FIRST_ID + _IDS, (_REQUESTS, length))
        prompts[:, :shared] = prompts[0, :shared]
        text = json.dumps({"answer": answer, "shared": shared, "prompts": prompts.tolist()})
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
