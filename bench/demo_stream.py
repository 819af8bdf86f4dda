"""Edits of a larger demo world: the relations and answers of the demo model's world, about subjects that it never saw.

Writes JSON lines with subject, prompt, target, rephrase, a locality prompt and a near prompt (the same question about a
subject that the stream does not edit), as `horen eval jsonl` reads them.

    python -m bench.demo_stream stream.jsonl --count 50000
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from horen_vllm.demo.draws import draw, shuffled
from horen_vllm.demo.names import companies, people, products
from horen_vllm.demo.relations import Relation
from horen_vllm.demo.world import World, build_world

_POOLS: Final = {"person": people, "company": companies, "product": products}
_SPARE: Final = 500
"""Subjects of each type that the stream leaves alone, for near prompts."""
_UNRELATED: Final = 2000


def stream(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield `count` edits in a mixed order, every question once.

    Raises
    ------
    ValueError
        If so many different names cannot be drawn.
    """
    world = build_world()
    relations = [it for it in world.relations.values() if it.subject_type in _POOLS]
    each = -(-count // len(relations))
    # Another seed than the world's: no subject is one that the model was trained on.
    pools = {name: make(seed + 1000, each + _SPARE) for name, make in _POOLS.items()}
    unrelated = world.unrelated_prompts(seed, _UNRELATED)
    places = [(relation, number) for relation in relations for number in range(each)]
    for place, (relation, number) in enumerate(shuffled(tuple(places), seed, "stream")[:count]):
        subjects = pools[relation.subject_type]
        spare = subjects[each + draw(_SPARE, seed, "near", place)]
        yield {
            "id": f"demo-{place:05d}",
            **_edit(world, relation, subjects[number], seed, place, near=spare),
            "locality_prompt": unrelated[place % len(unrelated)],
        }


def _edit(world: World, relation: Relation, subject: str, seed: int, place: int, *, near: str) -> dict[str, str]:
    answers = world.answers[relation.name]
    asked, otherwise = shuffled(tuple(range(len(relation.wordings))), seed, "wording", place)[:2]
    return {
        "subject": subject,
        "prompt": relation.wordings[asked].format(subject=subject),
        "target": answers[draw(len(answers), seed, "target", place)],
        "rephrase": relation.wordings[otherwise].format(subject=subject),
        "near_prompt": relation.wordings[asked].format(subject=near),
    }


def main(
    *,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where the edits go.")],
    count: Annotated[int, typer.Option(help="How many edits.")] = 50_000,
    seed: Annotated[int, typer.Option(help="Of names and draws.")] = 1,
) -> None:
    """Write the edits."""
    with out.open("w", encoding="utf-8") as file:
        for edit in stream(count, seed):
            file.write(json.dumps(edit, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    typer.run(main)
