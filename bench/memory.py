"""What an entry costs a server in memory, beside the paper's accounting and the KV cache that its budget takes away.

Entries are loaded into the plugin's own buffers, without vLLM, and the sizes are what the buffers then say is used. As
a check, a process of its own makes buffers for many and loads them: by how much it grows is read, too. A whitened key
is r numbers, with the word n-grams that a calibration joins it with where the names say so. Of several tensor-parallel
ranks each holds a part of a raw key and all of everything else.

    python -m bench.memory --out bench/results/memory.json
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.memory_accounts import (
    LLAMA_8B,
    MIB,
    PAPER_PRINTS,
    PAPER_REMARK,
    PAPER_SOURCE,
    ModelShape,
    demo_shape,
    kv_tokens,
    paper_entry,
    paper_parameters,
)
from bench.memory_pools import LORA_RANK, VALUE_MODES, Case, described, resident_bytes
from bench.provenance import provenance, write_result
from horen_vllm.plugin.settings import EngineSettings

_KEYS: Final = ((0, 0), (256, 0), (512, 0), (1024, 0), (1024, 1024))
"""r and word columns; (0, 0): raw keys."""
_SCALES: Final = (1_000, 10_000, 50_000, 100_000)


def cases(shape: ModelShape, target_tokens: int) -> Iterator[Case]:
    """Yield every kind of key that such a layer can have, with every kind of value."""
    for rank, words in _KEYS:
        for mode in VALUE_MODES:
            if rank <= shape.d_in:
                yield Case(shape, rank, words, mode, target_tokens)


def in_context(shape: ModelShape, row: dict[str, Any], defaults: EngineSettings) -> dict[str, Any]:
    """Return a measured row with what it means: entries in the default budgets, and KV tokens for some sizes."""
    cost, space = row["bytes_an_entry"], row["space_bytes_once"]
    budgets = defaults.key_budget_mib * MIB - space, defaults.value_budget_mib * MIB
    fits = min(int(budget // cost[part]) for budget, part in zip(budgets, ("keys", "values"), strict=True))
    by_size = {str(size): round(kv_tokens(shape, size * cost["all"] + space)) for size in _SCALES}
    lora = LORA_RANK if row["value"].startswith("lora") else 0
    return {
        **row,
        "paper_bytes_an_entry": paper_entry(shape, lora),
        "entries_in_the_default_budgets": fits,
        "kv_tokens_for_entries": by_size,
    }


def fixed_costs(shape: ModelShape, defaults: EngineSettings, requests: int) -> dict[str, Any]:
    """Return what is taken before any entry is there: the budgets, and the sums of running requests' inputs."""
    budget = (defaults.key_budget_mib + defaults.value_budget_mib) * MIB
    sums = requests * (1 + defaults.subject_ranges) * shape.d_in * torch.float32.itemsize
    return {
        "kv_bytes_a_token": shape.kv_bytes_a_token,
        "kv_tokens_a_mib": round(kv_tokens(shape, MIB), 2),
        "default_budget_mib": budget // MIB,
        "kv_tokens_of_the_default_budget": round(kv_tokens(shape, budget)),
        "running_requests": requests,
        "sums_of_running_requests_bytes": sums,
        "kv_tokens_of_the_sums": round(kv_tokens(shape, sums)),
    }


def paper_account(shape: ModelShape) -> dict[str, Any]:
    """Return what the paper states, and what its rule gives for the same model."""
    ours = {"value": paper_parameters(1000, shape.d_out), "lora": paper_parameters(1000, shape.d_out, LORA_RANK)}
    return {
        "source": PAPER_SOURCE,
        "printed": PAPER_PRINTS,
        "by_its_rule": {name: {"entries": 1000, "parameters": count} for name, count in ours.items()},
        "remark": PAPER_REMARK,
    }


def shown(shape: ModelShape, rows: list[dict[str, Any]]) -> Table:
    """Return the rows of one model as a table."""
    table = Table(title=f"{shape.name}: bytes an entry; {shape.kv_bytes_a_token:,} bytes of KV cache a token")
    for column in ("keys", "value", "key", "value vectors", "tables", "all", "paper counts", "10K entries: KV tokens"):
        table.add_column(column, justify="left" if column in {"keys", "value"} else "right")
    for row in rows:
        cost = [f"{row['bytes_an_entry'][part]:,.0f}" for part in ("keys", "values", "tables", "all")]
        paper, tokens = row["paper_bytes_an_entry"]["counted"], row["kv_tokens_for_entries"]["10000"]
        table.add_row(row["keys"], row["value"], *cost, f"{paper:,}", f"{tokens:,}")
    return table


def main(
    *,
    entries: Annotated[int, typer.Option(min=1, help="Entries that are loaded in each case.")] = 64,
    resident: Annotated[int, typer.Option(min=1, help="Entries whose resident memory is read.")] = 2000,
    target_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an edit's target, without its end.")] = 5,
    requests: Annotated[int, typer.Option(min=1, help="Requests that run at once (vLLM's max_num_seqs).")] = 256,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("bench/results/memory.json"),
) -> None:
    """Measure every case and write the result."""
    console = Console()
    defaults = EngineSettings(site="bench")
    settings = {"entries": entries, "resident_entries": resident, "target_tokens": target_tokens}
    result: dict[str, Any] = {
        **provenance(),
        "settings": settings,
        "paper": paper_account(LLAMA_8B),
        "models": {},
    }
    for shape in (LLAMA_8B, demo_shape()):
        rows = [in_context(shape, described(case, entries), defaults) for case in cases(shape, target_tokens)]
        checked = [case for case in cases(shape, target_tokens) if case.mode == "sequence" and case.rank in {0, 512}]
        result["models"][shape.name] = {
            "dtype": str(shape.dtype).removeprefix("torch."),
            "before_any_entry": fixed_costs(shape, defaults, requests),
            "rows": rows,
            "resident_bytes_an_entry": {case.keys: resident_bytes(case, resident) for case in checked},
        }
        console.print(shown(shape, rows))
        console.print("resident:", result["models"][shape.name]["resident_bytes_an_entry"])
    console.print(PAPER_REMARK)
    write_result(out, result)


if __name__ == "__main__":
    typer.run(main)
