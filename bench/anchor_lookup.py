"""What it costs to read a prompt and find the subjects that it names, for tables of 100 to 100,000 names.

``python -m bench.anchor_lookup`` writes ``bench/results/anchor_lookup.json``: microseconds a prompt, paired rounds, the
median of several. The names share their first words, which is the worst case of the look-up.
"""

import random
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import typer
from transformers import AutoTokenizer

from bench.provenance import provenance, write_result
from horen_vllm.core.anchors import AnchorTable
from horen_vllm.core.words import plain_words
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.pieces import token_text

SIZES: Final = (100, 1_000, 10_000, 100_000)
PROMPT_WORDS: Final = 24
PROMPTS: Final = 200


def names(count: int) -> list[str]:
    """Return names of two to four words whose first words are few."""
    generator = random.Random(count)
    firsts = [f"the first{number}" for number in range(50)]
    return [f"{generator.choice(firsts)} of name{number} {generator.randrange(100)}" for number in range(count)]


def prompts(known: list[str], seed: int) -> list[str]:
    """Return questions of about `PROMPT_WORDS` words, each of which names one of the names."""
    generator = random.Random(seed)
    filler = [f"word{number}" for number in range(500)]
    return [
        " ".join([*generator.sample(filler, PROMPT_WORDS - 6), generator.choice(known), "the first1 of?"])
        for _ in range(PROMPTS)
    ]


def micros(work: Any, items: list[Any]) -> float:
    """Return the microseconds that `work` takes for an item."""
    started = time.perf_counter()
    for item in items:
        work(item)
    return 1e6 * (time.perf_counter() - started) / len(items)


def main(
    rounds: Annotated[int, typer.Option(help="Rounds; the median counts.")] = 7,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/anchor_lookup.json"),
) -> None:
    """Measure and write the result with its provenance."""
    tables = {size: AnchorTable(dict(enumerate([plain_words(name)] for name in names(size)))) for size in SIZES}
    asked = {size: [plain_words(text) for text in prompts(names(size), size)] for size in SIZES}
    found = {size: [micros(tables[size].find, asked[size]) for _ in range(rounds)] for size in SIZES}
    tokenizer = AutoTokenizer.from_pretrained(str(demo_model_dir()))
    ids = [tokenizer(text)["input_ids"] for text in prompts(names(100), 1)]
    reading = [micros(lambda prompt: token_text(tokenizer, prompt, (0, len(prompt))), ids) for _ in range(rounds)]
    result = {
        "reading_us_a_prompt": round(median(reading), 1),
        "tokens_a_prompt": round(sum(map(len, ids)) / len(ids), 1),
        "look_up_us_a_prompt": {str(size): round(median(times), 1) for size, times in found.items()},
    }
    write_result(out, {**provenance(), **result})
    typer.echo(result)


if __name__ == "__main__":
    typer.run(main)
