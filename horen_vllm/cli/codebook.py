"""``horen codebook``: make codebooks, look at them, take them back."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from horen_vllm.cli.codebook_save import save
from horen_vllm.cli.connection import ControlOption, HomeOption, TenantOption, codebook_of, connect, tenant_of
from horen_vllm.cli.output import JsonFlag, moment, print_fields, print_json, print_rows
from horen_vllm.core.presets import PRESETS, MethodParameters, ValueMode

if TYPE_CHECKING:
    from horen_vllm.control.messages import CodebookView

app = typer.Typer(help="Make codebooks, look at them, take them back.", no_args_is_help=True)
app.command()(save)

CodebookArgument = Annotated[str, typer.Argument(metavar="CODEBOOK", help="Name of the codebook.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="How long to wait at most.")
]


@app.command()
def create(
    *,
    name: CodebookArgument,
    preset: Annotated[
        str | None,
        typer.Option(help=f"Method parameters: {', '.join(PRESETS)} (default: what the calibration recommends)."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Cosine above which an entry matches, whatever else is in the codebook (default: the preset's)."
        ),
    ] = None,
    false_fire_rate: Annotated[
        float | None,
        typer.Option(
            help="Share of unrelated questions that may match; the threshold follows (default: the preset's)."
        ),
    ] = None,
    anchors: Annotated[
        bool | None,
        typer.Option(
            "--anchors/--no-anchors",
            help="Edits with a subject match only where it or an alias occurs (default: the preset's choice).",
        ),
    ] = None,
    anchored_threshold: Annotated[
        float | None, typer.Option(help="Threshold of edits with a subject, with --anchors (default: the preset's).")
    ] = None,
    mask_subject: Annotated[
        bool | None,
        typer.Option(
            "--mask-subject/--no-mask-subject",
            help="Compare edits with a subject without its words, with --anchors (default: the preset's choice).",
        ),
    ] = None,
    value_mode: Annotated[
        ValueMode | None, typer.Option(help="Answer positions that a value is written at (default: the preset's).")
    ] = None,
    window_ratio: Annotated[
        float | None, typer.Option(help="Share of the prompt, from its end, that is averaged (default: the preset's).")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank of LoRA values; 0: direct vectors (default: the preset's).")
    ] = None,
    max_value_rows: Annotated[
        int | None, typer.Option(help="Most vectors of a `sequence` value (default: the preset's).")
    ] = None,
    end: Annotated[
        bool | None,
        typer.Option("--end/--no-end", help="Train the end of the answer, too (default: the preset's choice)."),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Key edits in chat form, too (default: the preset's choice)."),
    ] = None,
    prefixes: Annotated[
        int | None, typer.Option(help="Short openings behind which edits are keyed, too (default: the preset's).")
    ] = None,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an empty codebook."""
    with connect(control, home) as client:
        view = client.create_codebook(
            codebook_of(name, tenant),
            preset=preset,
            threshold=threshold,
            value_mode=value_mode,
            window_ratio=window_ratio,
            rank=rank,
            max_value_rows=max_value_rows,
            train_end=end,
            chat=chat,
            prefixes=prefixes,
            false_fire_rate=false_fire_rate,
            anchors=anchors,
            anchored_threshold=anchored_threshold,
            mask_subject=mask_subject,
        )
    _print_codebook(view, as_json=as_json)


@app.command("list")
def list_(
    *, tenant: TenantOption = None, control: ControlOption = None, home: HomeOption = None, as_json: JsonFlag = False
) -> None:
    """List the codebooks of a tenant."""
    with connect(control, home) as client:
        views = list(client.list_codebooks(tenant_of(tenant)))
    columns = (
        ("CODEBOOK", lambda view: view.name.codebook),
        ("MODEL", lambda view: view.model),
        ("PRESET", lambda view: view.parameters.preset),
        ("REVISION", lambda view: view.revision),
        ("ENTRIES", lambda view: view.entry_count),
        ("SERVING", _serving),
    )
    print_rows(views, columns, as_json=as_json)


@app.command()
def show(
    *,
    name: CodebookArgument,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show one codebook."""
    with connect(control, home) as client:
        view = client.get_codebook(codebook_of(name, tenant))
    _print_codebook(view, as_json=as_json)


@app.command()
def revisions(
    *,
    name: CodebookArgument,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the revisions of a codebook, oldest first."""
    with connect(control, home) as client:
        views = list(client.list_revisions(codebook_of(name, tenant)))
    columns = (
        ("REVISION", lambda view: view.number),
        ("KIND", lambda view: view.kind.value),
        ("EDIT", lambda view: view.edit_id),
        ("RESTORED", lambda view: view.restored),
        ("ENTRIES", lambda view: view.entry_count),
        ("THRESHOLD", lambda view: view.threshold),
        ("CREATED", lambda view: moment(view.created_at)),
    )
    print_rows(views, columns, as_json=as_json)


@app.command()
def calibrations(*, control: ControlOption = None, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the calibrations of the served model, oldest first."""
    with connect(control, home) as client:
        records = list(client.list_calibrations())
    columns = (
        ("VERSION", lambda record: record.version),
        ("RECOMMENDED", lambda record: record.recommended),
        ("PRESETS", lambda record: tuple(record.presets)),
        ("SITE", lambda record: record.site),
        ("CREATED", lambda record: moment(record.created_at)),
    )
    print_rows(records, columns, as_json=as_json)


# Without this a negative revision would be an unknown option; the server says what is wrong with it.
@app.command(context_settings={"ignore_unknown_options": True})
def rollback(
    *,
    name: CodebookArgument,
    revision: Annotated[int, typer.Argument(metavar="REVISION", help="Revision whose entries to restore.")],
    wait: Annotated[bool, typer.Option("--wait", help="Return once every server has the new revision.")] = False,
    timeout: TimeoutOption = 60.0,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a new revision with exactly the entries and the threshold of an old one."""
    with connect(control, home) as client:
        book = codebook_of(name, tenant)
        made = client.rollback(book, revision)
        if not wait:
            _say(made, f"revision {made.number} of {name} restores revision {revision}.", as_json=as_json)
            return
        with Console(stderr=True).status(f"waiting until revision {made.number} is served"):
            view = client.wait_serving(book, made.number, timeout_s=timeout)
    _say(view, f"revision {view.revision} of {name} is served everywhere.", as_json=as_json)


def _say(view: object, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        typer.echo(sentence)


def _serving(view: "CodebookView") -> str:
    return f"{view.replicas_serving}/{view.replicas_total} servers"


def _values(parameters: MethodParameters) -> str:
    if parameters.rank:
        return f"LoRA of rank {parameters.rank}"
    rows = f", at most {parameters.max_value_rows}" if parameters.value_mode is ValueMode.SEQUENCE else ""
    return f"direct vectors{rows}"


def _keyed_in(parameters: MethodParameters) -> str:
    forms = "plain and chat form" if parameters.chat else "plain form"
    return f"{forms}, behind {parameters.prefixes} openings" if parameters.prefixes else forms


def _anchored(parameters: MethodParameters) -> str | None:
    if not parameters.anchors:
        return None
    masked = ", compared without the subject" if parameters.mask_subject else ""
    return f"edits with a subject, above {parameters.anchored_threshold:g}{masked}"


def _print_codebook(view: "CodebookView", *, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    parameters = view.parameters
    print_fields(
        (
            ("codebook", view.name.codebook),
            ("tenant", view.name.tenant),
            ("ask for", f"{view.model}@{view.name.codebook}"),
            ("site", view.site),
            ("preset", parameters.preset),
            ("threshold", parameters.threshold),
            ("false-fire rate", parameters.false_fire_rate),
            ("routing space", parameters.space),
            ("anchors", _anchored(parameters)),
            ("radius", parameters.radius),
            ("window ratio", parameters.window_ratio),
            ("value mode", parameters.value_mode.value),
            ("values", _values(parameters)),
            ("end trained", "yes" if parameters.train_end else "no"),
            ("keyed in", _keyed_in(parameters)),
            ("revision", view.revision),
            ("entries", view.entry_count),
            ("serving", _serving(view)),
            ("problems", tuple(f"{it.replica_id}: {it.message} [{it.code}]" for it in view.problems)),
            ("created", moment(view.created_at)),
        )
    )
