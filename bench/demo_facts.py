"""The demo model's own facts with wrong targets, as `bench.routing_goals` reads them, and unrelated prompts beside.

python -m bench.demo_facts rows.jsonl unrelated.jsonl
"""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from horen_vllm.demo.world import Fact, World, build_world

_UNRELATED: Final = 1600
_SALT: Final = 1
_SEED: Final = 3


def row(world: World, fact: Fact) -> dict[str, Any]:
    """Return an edit of a fact; its rephrase is the one wording that training never paired with it."""
    return {
        "subject": fact.subject,
        "prompt": world.prompt(fact, world.trained_wordings(fact)[0]),
        "target": world.counterfactual(fact, _SALT),
        "target_true": fact.answer,
        "rephrase": world.prompt(fact, world.held_out_wording(fact)),
    }


def main(
    rows: Annotated[Path, typer.Argument(help="Where the edits go.")],
    unrelated: Annotated[Path, typer.Argument(help="Where prompts go that ask for no fact.")],
) -> None:
    """Write both files."""
    world = build_world()
    for path, lines in (
        (rows, [row(world, fact) for fact in world.facts]),
        (unrelated, [{"prompt": prompt} for prompt in world.unrelated_prompts(_SEED, _UNRELATED)]),
    ):
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
