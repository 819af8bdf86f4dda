"""How many requests the one-pass route leaves open, and how many keys it reads again, by preset.

``python -m bench.routing_shares`` writes ``bench/results/routing_shares.json``. Keys and queries are made ones, and
those of the demo model's prompts as the server would make them: the identity space, the window of the preset. Counts,
no times. ``first_scores_undecided`` is the share that first scores leave open.
"""

import random
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from torch.nn import functional as F

from bench.editing_model import demo_edits, load_subject
from bench.provenance import provenance, write_result
from bench.routing_books import METHODS, RAW, WHITENED, Keys, made_keys, near_queries
from horen_vllm.core.presets import preset_parameters
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.demo.world import build_world
from horen_vllm.editor.contexts import build_contexts
from horen_vllm.editor.forward.clean import queries
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.memory import MemoryLimit
from horen_vllm.kernels.route_cpu import route_counted
from horen_vllm.registry.models import EditSpec

LIMIT: Final = MemoryLimit(256 << 20)
COSINES: Final = {"near": 0.95, "at the threshold": 0.85, "far": 0.3}


def main(
    entries: Annotated[list[int] | None, typer.Option(help="Numbers of made entries.")] = None,
    edits: Annotated[int, typer.Option(help="Edits of the demo world.")] = 1000,
    asked: Annotated[int, typer.Option(help="Queries of each sort.")] = 64,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/routing_shares.json"),
) -> None:
    """Count, for made and for real queries."""
    rows = []
    for kind in (RAW, WHITENED):
        for count in entries or [1000, 10_000]:
            keys = made_keys(kind, count, "cpu")
            for sort, cosine in COSINES.items():
                found = near_queries(keys, asked, cosine, 3)
                rows += [_row(f"made, {kind.name}", sort, method, keys, found) for method in METHODS]
    rows += _real(edits, asked)
    write_result(out, {**provenance(), "rows": rows})
    for row in rows:
        print(row)


def _row(source: str, sort: str, method: str, keys: Keys, found: torch.Tensor) -> dict[str, Any]:
    rule = METHODS[method]
    routed, shares = route_counted(found, keys.buffer, keys.numbers, keys.numbers, keys.numbers, **rule)
    again = shares.again.double() / len(keys.numbers)
    return {
        "queries": source,
        "sort": sort,
        "entries": len(keys.numbers),
        "method": method,
        "matched": float((routed.entry >= 0).double().mean()),
        "first_scores_undecided": _undecided(found, keys, rule),
        "undecided": float(shares.undecided.double().mean()),
        "keys_read_again_median": float(shares.again.double().median()),
        "share_of_keys_read_again_mean": float(again.mean()),
    }


def _undecided(found: torch.Tensor, keys: Keys, rule: dict[str, Any]) -> float:
    if not rule["steps"]:
        return 0.0
    numbers = keys.numbers
    _, shares = route_counted(found, keys.buffer, numbers, numbers, numbers, **rule, sure_above=rule["threshold"])
    return float((shares.again > 0).double().mean())


def _real(edits: int, asked: int) -> list[dict[str, Any]]:
    """Count for the demo model: its edits' own prompts, other wordings of them, and prompts about other things."""
    specs = demo_edits(edits)
    subject = load_subject(demo_model_dir(), specs, name="demo", device="cpu", threshold=0.85)
    world = build_world()
    by_prompt = {world.prompt(fact, wording): fact for fact in world.facts for wording in world.trained_wordings(fact)}
    chosen = random.Random(5).sample(specs, asked)
    reworded = [world.unseen_prompt(by_prompt[spec.prompt]) for spec in chosen if spec.prompt in by_prompt]
    sorts = {
        "own prompts": [spec.prompt for spec in chosen],
        "rewordings": reworded,
        "unrelated": list(world.unrelated_prompts(3, asked)),
    }
    rows = []
    for preset, method in (("horen-paper", "horen-paper"), ("horen-reference", "horen-reference"), ("cosine",) * 2):
        parameters = preset_parameters(preset, "demo", 0.85)

        def asks(prompts: list[str], keying: Keying = Keying(parameters)) -> torch.Tensor:  # noqa: B008
            made = [EditSpec(prompt=prompt, target=" x") for prompt in prompts]
            contexts = [build_contexts(subject.editable, spec, keying.parameters)[0] for spec in made]
            return F.normalize(queries(subject.editable, contexts, keying, LIMIT).float(), dim=1)

        buffer = asks([spec.prompt for spec in specs])
        keys = Keys(buffer, torch.arange(len(buffer)))
        rows += [
            _row("demo model, raw", sort, method, keys, asks(prompts)) for sort, prompts in sorts.items() if prompts
        ]
    return rows


if __name__ == "__main__":
    typer.run(main)
