"""Puts a run of ``horen eval`` together: data, server, control plane, display."""

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError
from rich.console import Console

from horen_vllm.cli.connection import OWN_TENANT, connect, security, tenant_of
from horen_vllm.cli.eval_control import ControlPlane
from horen_vllm.cli.eval_options import EvalOptions
from horen_vllm.cli.eval_table import write_results
from horen_vllm.cli.explain import server_url
from horen_vllm.control.credential import key_source
from horen_vllm.errors import FailedPrecondition, InvalidArgument, Unavailable
from horen_vllm.evals.asking.answerer import Answerer
from horen_vllm.evals.asking.calling import Patience
from horen_vllm.evals.asking.http import HttpAnswerer
from horen_vllm.evals.asking.memory import ServerMemory
from horen_vllm.evals.asking.progress import AskingBar
from horen_vllm.evals.asking.tokenizer import check_tokenizer
from horen_vllm.evals.data.dataset import Dataset
from horen_vllm.evals.data.defects import Defect
from horen_vllm.evals.data.general import GeneralPrompt, GeneralPrompts, open_prompts
from horen_vllm.evals.data.opening import open_dataset
from horen_vllm.evals.questions.drafts import BASE
from horen_vllm.evals.records import Case
from horen_vllm.evals.reporting.run_info import (
    RUN_FILE,
    ArmInfo,
    AskingInfo,
    DatasetInfo,
    DefectInfo,
    FileInfo,
    ModelInfo,
    RunInfo,
)
from horen_vllm.evals.running import provenance
from horen_vllm.evals.running.books import Books
from horen_vllm.evals.running.model import base_model, has_chat
from horen_vllm.evals.running.run import EvalRun, Material
from horen_vllm.evals.running.settings import DEFAULT_ARMS, RunSettings, default_checkpoints
from horen_vllm.evals.scoring import Similarity
from horen_vllm.ids import DEFAULT_TENANT, TenantId, parse_name

if TYPE_CHECKING:
    from horen_vllm.evals.asking.offline import TransformersAnswerer

_CHECKED_TEXTS: Final = 50
_NAME_LENGTH: Final = 40
"""So that ``eval-NAME-PRESET`` is the name of a codebook."""
_PASSAGES: Final = "unke"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the parts answer, as the command line says."""

    url: str | None
    control: str | None
    home: Path | None
    tenant: str | None
    timeout_s: float
    attempts: int


def run_evaluation(options: EvalOptions, where: Endpoints, *, as_json: bool) -> None:
    """Run, or go on with, an evaluation, and print what it comes to; errors as `EvalRun.go` and of what it needs."""
    # It tells everything it does to whoever listens to everything.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    console = Console(stderr=True)
    dataset = open_dataset(
        options.file,
        name=options.dataset,
        layout=options.layout,
        limit=options.edits,
        keep_contradictory=options.keep_contradictory,
    )
    files = {path: open_prompts(path) for path in (options.ordinary, options.ability) if path is not None}
    _tell_defects(dataset, console)
    for prompts in files.values():
        _tell_prompts(prompts, console)
    with _going_on_later():
        with ExitStack() as held:
            _evaluate(options, where, dataset, files, console, held)
        write_results(options.out, as_json=as_json)


def _evaluate(
    options: EvalOptions,
    where: Endpoints,
    dataset: Dataset,
    files: dict[Path, GeneralPrompts],
    console: Console,
    held: ExitStack,
) -> None:
    offline = _in_process(options, where) if options.offline else None
    answerer: Answerer = offline or held.enter_context(_server(where))
    model = base_model(answerer, None if options.offline else options.model)
    static = tuple(offline.codebooks) if offline is not None else ()
    chat = has_chat(answerer, model) if options.chat is None else options.chat
    settings = _settings(options, dataset, chat=chat, static=static)
    name, cases = _name(options), dataset.cases[: settings.edits]
    tokenizer, token_ids = "", None
    if options.tokenizer is not None:
        texts = [text for case in cases[:_CHECKED_TEXTS] for text in (case.prompt, f" {case.target}")]
        token_ids = check_tokenizer(answerer, options.tokenizer, texts).token_ids
        tokenizer = f"that of {provenance.portable(str(options.tokenizer))}: the same"
    books, fingerprint = None, ""
    if settings.books:
        client = held.enter_context(connect(where.control, where.home))
        control = ControlPlane(client, tenant_of(where.tenant))
        fingerprint = control.fingerprint()
        memory = held.enter_context(_memory(where))
        books = Books(control, cases, settings.thresholds, patience_s=options.patience, memory=memory.used)
    bar = held.enter_context(AskingBar(console))
    notes = [] if settings.chat else ["The model has no chat template: the strict protocol asks completions."]
    if books is not None and books.without_subject:
        notes.append(f"{books.without_subject} of {len(cases)} edits are submitted without a subject.")
    arms = _static_arms(offline, model, settings.arms, cases) if offline is not None else ()
    run = EvalRun(
        settings,
        Material(
            answerer=answerer,
            cases=cases,
            dataset=_described(dataset, settings, files),
            model=ModelInfo(name=model, tokenizer=tokenizer, fingerprint=fingerprint),
            books=books,
            token_ids=token_ids,
            ordinary=_prompts(files, options.ordinary),
            ability=_prompts(files, options.ability),
            similarity=_similarity(options.semantic_model),
            static=arms,
            notes=notes,
        ),
        options.out,
        name=name,
        command=provenance.command_line(sys.argv[1:]),
        asking=AskingInfo(
            concurrency=1 if options.offline else options.concurrency,
            timeout_s=where.timeout_s,
            attempts=where.attempts,
            patience_s=options.patience,
        ),
        display=bar,
    )
    run.go()


@contextmanager
def _going_on_later() -> Iterator[None]:
    kept = "What was answered is kept: the same command goes on from there."
    try:
        yield
    except Unavailable as error:
        error.add_note(kept)
        raise
    except OSError as error:
        unusable = FailedPrecondition(f"the run's folder cannot be written: {error}.", code="file_unusable")
        unusable.add_note(kept)
        raise unusable from error


def _server(where: Endpoints) -> HttpAnswerer:
    patience = Patience(timeout_s=where.timeout_s, attempts=where.attempts)
    return HttpAnswerer(server_url(where.url, where.home), api_key=_api_key(), patience=patience)


def _memory(where: Endpoints) -> ServerMemory:
    return ServerMemory(server_url(where.url, where.home), api_key=_api_key())


def _api_key() -> str | None:
    how = security()
    key = key_source(how.api_key, how.api_key_file)
    return key() if key is not None else None


def _in_process(options: EvalOptions, where: Endpoints) -> "TransformersAnswerer":
    from horen_vllm.evals.asking.offline import TransformersAnswerer  # noqa: PLC0415 - torch and transformers

    if options.model is None:
        raise InvalidArgument("--offline needs --model with the model's folder.", code="model_required")
    tenant = tenant_of(where.tenant)
    return TransformersAnswerer(
        Path(options.model),
        codebooks=options.codebook,
        tenant=DEFAULT_TENANT if tenant == OWN_TENANT else TenantId(tenant),
    )


def _static_arms(
    offline: "TransformersAnswerer", model: str, arms: Sequence[str], cases: Sequence[Case]
) -> tuple[ArmInfo, ...]:
    from horen_vllm.evals.running.static_arms import static_arm  # noqa: PLC0415 - torch

    return tuple(static_arm(model, book, cases) for name, book in offline.codebooks.items() if name in arms)


def _settings(options: EvalOptions, dataset: Dataset, *, chat: bool, static: tuple[str, ...]) -> RunSettings:
    edits = options.edits or len(dataset.cases)
    if edits > len(dataset.cases):
        message = f"{options.file} has {len(dataset.cases)} edits, and {edits} are asked for."
        raise InvalidArgument(message, code="too_few_edits")
    asked = {
        "dataset": options.dataset,
        "file": options.file,
        "layout": options.layout,
        "arms": options.arms or ((BASE, *static) if options.offline else DEFAULT_ARMS),
        "thresholds": options.thresholds,
        "edits": edits,
        "checkpoints": options.checkpoints or ((edits,) if options.offline else default_checkpoints(edits)),
        "sample": options.sample,
        "supersede": options.supersede,
        "seed": options.seed,
        "chat": chat,
        "without": options.without,
        "ordinary": options.ordinary,
        "ability": options.ability,
        "semantic_model": str(options.semantic_model) if options.semantic_model else None,
        "keep_contradictory": options.keep_contradictory,
        "passages": options.dataset == _PASSAGES,
        "offline": options.offline,
        "static": static,
    } | ({} if options.protocols is None else {"protocols": options.protocols})
    try:
        settings = RunSettings.model_validate(asked)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidArgument(f"{where}: {first['msg']}, not {first['input']!r}.", code="invalid_option") from error
    return settings.checked()


def _described(dataset: Dataset, settings: RunSettings, files: dict[Path, GeneralPrompts]) -> DatasetInfo:
    return DatasetInfo(
        name=settings.dataset,
        path=provenance.portable(str(dataset.path.absolute())),
        sha256=dataset.sha256,
        layout=dataset.layout,
        cases=len(dataset.cases),
        defects=_defects(dataset.defects),
        others=tuple(f"{provenance.portable(str(path.absolute()))} {it.sha256}" for path, it in files.items()),
        files=tuple(
            FileInfo(
                path=provenance.portable(str(path.absolute())), prompts=len(it.prompts), defects=_defects(it.defects)
            )
            for path, it in files.items()
        ),
    )


def _defects(found: Sequence[Defect]) -> tuple[DefectInfo, ...]:
    return tuple(DefectInfo(kind=it.kind, count=it.count, examples=it.examples, handling=it.handling) for it in found)


def _tell_defects(dataset: Dataset, console: Console) -> None:
    what = f"{len(dataset.cases)} edits of {dataset.rows} rows, layout {dataset.layout}"
    _tell(dataset.path, what, dataset.defects, console)


def _tell_prompts(prompts: GeneralPrompts, console: Console) -> None:
    _tell(prompts.path, f"{len(prompts.prompts)} prompts", prompts.defects, console)


def _tell(path: Path, what: str, defects: Sequence[Defect], console: Console) -> None:
    console.print(f"{path.name}: {what}", markup=False, highlight=False, soft_wrap=True)
    for it in defects:
        console.print(f"  {it.count} {it.kind}: {it.handling}", markup=False, highlight=False, soft_wrap=True)


def _prompts(files: dict[Path, GeneralPrompts], path: Path | None) -> tuple[GeneralPrompt, ...]:
    return files[path].prompts if path is not None else ()


def _similarity(folder: Path | None) -> Similarity | None:
    if folder is None:
        return None
    from horen_vllm.evals.metrics.semantic import SentenceEncoder  # noqa: PLC0415 - torch and transformers

    return SentenceEncoder(folder)


def _name(options: EvalOptions) -> str:
    """Return the name of the run: as it was begun, else as asked for, else after its folder."""
    if (options.out / RUN_FILE).exists():
        return RunInfo.load(options.out).name
    made = re.sub(r"[^a-z0-9]+", "-", options.out.absolute().name.lower()).strip("-")[:_NAME_LENGTH].strip("-")
    name = parse_name(options.name or made or "run", "run")
    if len(name) > _NAME_LENGTH:
        raise InvalidArgument(f"the run's name {name!r} has more than {_NAME_LENGTH} characters.", code="invalid_name")
    return name
