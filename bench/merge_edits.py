"""One long stream of edits from several data files, and a background for its calibration from what is left.

Rows are read by the loaders of `horen eval`, each prompt once (the first file wins), and mixed by the seed. The first
`--count` become the stream. Of the others, those whose subject neither the stream nor a file kept `--apart` edits are
the background: prompt, subject, relation (the prompt without its subject) and rephrases.

    python -m bench.merge_edits stream.jsonl zsre.jsonl counterfact.jsonl --count 25000 --background background.jsonl
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.evals.data.opening import open_dataset
from horen_vllm.evals.records import Case


def merged(paths: Iterable[Path], seed: int) -> list[tuple[str, Case]]:
    """Return the cases of all files with the names of their data sets, each prompt once, in a mixed order."""
    distinct: dict[str, tuple[str, Case]] = {}
    for path in paths:
        data = open_dataset(path)
        for case in data.cases:
            distinct.setdefault(normalise_prompt(case.prompt), (data.name, case))
    cases = list(distinct.values())
    return [cases[int(place)] for place in np.random.default_rng(seed).permutation(len(cases))]


def edit_row(source: str, case: Case) -> dict[str, Any]:
    """Return a case as a line of the plain form of `horen eval`."""
    row: dict[str, Any] = {"id": f"{source}/{case.case_id}", "prompt": case.prompt, "target": case.target}
    row["subject"], row["rephrases"], row["target_true"] = case.subject, case.rephrases, case.target_true
    for probe in case.probes:
        row.setdefault(str(probe.kind), []).append({"prompt": probe.prompt, "targets": probe.targets})
    return row


def background_row(case: Case) -> dict[str, Any]:
    """Return a case as a line of a background file; a subject that does not stand in the prompt is left out."""
    row: dict[str, Any] = {"prompt": case.prompt, "rephrases": case.rephrases}
    if case.subject and case.subject in case.prompt:
        row["subject"], row["relation"] = case.subject, case.prompt.replace(case.subject, "{}")
    return row


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def main(
    out: Annotated[Path, typer.Argument(help="Where the stream goes.")],
    files: Annotated[list[Path], typer.Argument(help="Data files as `horen eval` reads them.")],
    *,
    count: Annotated[int, typer.Option(help="Edits of the stream.")] = 25_000,
    seed: Annotated[int, typer.Option(help="Of the order.")] = 7,
    background: Annotated[Path | None, typer.Option(help="Where prompts that the stream leaves alone go.")] = None,
    limit: Annotated[int, typer.Option(help="Most prompts of the background.")] = 1500,
    apart: Annotated[list[Path] | None, typer.Option(help="Data whose subjects the background leaves alone.")] = None,
) -> None:
    """Write the stream and its background."""
    cases = merged(files, seed)
    typer.echo(f"{len(cases)} edits in {len(files)} files")
    typer.echo(f"{_write(out, (edit_row(source, case) for source, case in cases[:count]))} edits in {out.name}")
    if background is not None:
        others = (case for path in apart or () for case in open_dataset(path).cases)
        streamed = (case for _, case in cases[:count])
        edited = {normalise_prompt(case.subject) for case in (*streamed, *others) if case.subject}
        left = [case for _, case in cases[count:] if case.subject and normalise_prompt(case.subject) not in edited]
        typer.echo(f"{_write(background, map(background_row, left[:limit]))} prompts in {background.name}")


if __name__ == "__main__":
    typer.run(main)
