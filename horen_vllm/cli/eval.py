"""``horen eval``: editing quality as a client of the served model sees it."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from horen_vllm.cli.connection import ControlOption, HomeOption, TenantOption
from horen_vllm.cli.eval_options import (
    DATASETS,
    AbilityOption,
    ArmsOption,
    AttemptsOption,
    ChatOption,
    CheckpointsOption,
    CodebookFolderOption,
    ConcurrencyOption,
    ContradictoryOption,
    EditsOption,
    EvalOptions,
    FileArgument,
    LayoutOption,
    ModelNameOption,
    NameOption,
    OfflineFlag,
    OrdinaryOption,
    OutOption,
    PatienceOption,
    ProtocolsOption,
    SampleOption,
    SeedOption,
    SemanticOption,
    SupersedeOption,
    ThresholdOption,
    TimeoutOption,
    TokenizerOption,
    UrlOption,
    WithoutOption,
    names,
    numbers,
    thresholds_of,
)
from horen_vllm.cli.output import JsonFlag

app = typer.Typer(help="Measure editing quality on a running server.", no_args_is_help=True)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")]
_HELP: Final = {
    "zsre": "ZsRE: edits, rephrases and locality prompts.",
    "wikibigedit": "WikiBigEdit: with personas and questions of several steps.",
    "unke": "UnKE: passages of text, compared by ROUGE, BLEU and a semantic score.",
    "counterfact": "CounterFact: with questions of the same form about other subjects.",
    "knowedit": "KnowEdit: with questions about the same subject.",
    "mquake": "MQuAKE: with questions of several steps.",
    "jsonl": "Any file of the project's own forms.",
}


def evaluate(
    dataset: str,
    *,
    file: FileArgument,
    out: OutOption,
    edits: EditsOption = None,
    checkpoints: CheckpointsOption = None,
    arms: ArmsOption = None,
    threshold: ThresholdOption = None,
    sample: SampleOption = 200,
    supersede: SupersedeOption = 50,
    seed: SeedOption = 0,
    name: NameOption = None,
    layout: LayoutOption = None,
    keep_contradictory: ContradictoryOption = False,
    ordinary: OrdinaryOption = None,
    ability: AbilityOption = None,
    semantic_model: SemanticOption = None,
    protocols: ProtocolsOption = None,
    without: WithoutOption = None,
    chat: ChatOption = None,
    url: UrlOption = None,
    model: ModelNameOption = None,
    tokenizer: TokenizerOption = None,
    concurrency: ConcurrencyOption = 16,
    timeout: TimeoutOption = 120.0,
    attempts: AttemptsOption = 12,
    patience: PatienceOption = 900.0,
    offline: OfflineFlag = False,
    codebook: CodebookFolderOption = None,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Submit the edits in one stream, ask at its checkpoints, and write records, summary and report."""
    options = EvalOptions(
        dataset=dataset,
        file=file,
        out=out,
        edits=edits,
        checkpoints=numbers(checkpoints),
        arms=names(arms) if arms is not None else None,
        thresholds=thresholds_of(threshold),
        sample=sample,
        supersede=supersede,
        seed=seed,
        name=name,
        layout=layout,
        keep_contradictory=keep_contradictory,
        ordinary=ordinary,
        ability=ability,
        semantic_model=semantic_model,
        protocols=names(protocols) if protocols is not None else None,
        without=names(without),
        chat=chat,
        model=model,
        tokenizer=tokenizer,
        concurrency=concurrency,
        patience=patience,
        offline=offline,
        codebook=codebook,
    )
    # httpx, gRPC and what the metrics need, which other commands do not.
    from horen_vllm.cli.eval_run import Endpoints, run_evaluation  # noqa: PLC0415

    where = Endpoints(url=url, control=control, home=home, tenant=tenant, timeout_s=timeout, attempts=attempts)
    run_evaluation(options, where, as_json=as_json)


@app.command()
def compare(
    *,
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of another one.")],
    arms: Annotated[
        list[str] | None,
        typer.Option("--arm", metavar="A=B", help="Arm of the first run, and the one of the second beside it."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show two runs beside each other: differences with intervals, and what differs in how they were made."""
    from horen_vllm.cli.eval_table import print_comparison  # noqa: PLC0415 - numpy and pydantic

    print_comparison(first, second, tuple(arms or ()), as_json=as_json)


@app.command()
def report(*, folder: FolderArgument, as_json: JsonFlag = False) -> None:
    """Write a run's summary and report anew, from its records; also of one that goes on or was broken off."""
    from horen_vllm.cli.eval_table import write_results  # noqa: PLC0415 - matplotlib

    write_results(folder, as_json=as_json)


def _command(dataset: str) -> Callable[..., None]:
    """Return `evaluate` for one data set."""

    @functools.wraps(evaluate)
    def run(**given: Any) -> None:
        evaluate(dataset, **given)

    signature = inspect.signature(evaluate)
    rest = [it for it in signature.parameters.values() if it.name != "dataset"]
    run.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
    run.__annotations__ = {it.name: it.annotation for it in rest}
    return run


for _dataset in DATASETS:
    app.command(_dataset, help=_HELP[_dataset])(_command(_dataset))
