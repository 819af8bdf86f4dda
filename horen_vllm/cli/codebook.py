"""``horen codebook``: make codebooks, look at them, compare and take back their revisions."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from horen_vllm.cli.codebook_files import export, import_
from horen_vllm.cli.codebook_options import (
    AnchoredThresholdOption,
    AnchorsOption,
    ChatOption,
    CodebookArgument,
    DryRunFlag,
    EndOption,
    EtagOption,
    FalseFireRateOption,
    MaskSubjectOption,
    MaxValueRowsOption,
    PrefixesOption,
    PresetOption,
    RankOption,
    RequestIdOption,
    ThresholdOption,
    TimeoutOption,
    ValueModeOption,
    WindowRatioOption,
)
from horen_vllm.cli.codebook_save import save
from horen_vllm.cli.codebook_view import print_codebook, say, serving
from horen_vllm.cli.connection import ControlOption, HomeOption, TenantOption, codebook_of, connect, tenant_of
from horen_vllm.cli.output import JsonFlag, moment, print_fields, print_json, print_rows

if TYPE_CHECKING:
    from horen_vllm.registry.differences import DiffRecord

app = typer.Typer(help="Make codebooks, look at them, take them back.", no_args_is_help=True)
app.command()(save)
app.command()(export)
app.command("import")(import_)


@app.command()
def create(
    *,
    name: CodebookArgument,
    preset: PresetOption = None,
    threshold: ThresholdOption = None,
    false_fire_rate: FalseFireRateOption = None,
    anchors: AnchorsOption = None,
    anchored_threshold: AnchoredThresholdOption = None,
    mask_subject: MaskSubjectOption = None,
    value_mode: ValueModeOption = None,
    window_ratio: WindowRatioOption = None,
    rank: RankOption = None,
    max_value_rows: MaxValueRowsOption = None,
    end: EndOption = None,
    chat: ChatOption = None,
    prefixes: PrefixesOption = None,
    request_id: RequestIdOption = None,
    validate_only: DryRunFlag = False,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an empty codebook."""
    with connect(control, home) as client:
        view = client.create_codebook(
            codebook_of(name, tenant),
            request_id=request_id,
            validate_only=validate_only,
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
    print_codebook(view, as_json=as_json)


@app.command("list")
def list_(
    *,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted ones, too.")] = False,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the codebooks of a tenant."""
    with connect(control, home) as client:
        views = list(client.list_codebooks(tenant_of(tenant), show_deleted=deleted))
    columns = (
        ("CODEBOOK", lambda view: view.name.codebook),
        ("MODEL", lambda view: view.model),
        ("PRESET", lambda view: view.parameters.preset),
        ("REVISION", lambda view: view.revision),
        ("ENTRIES", lambda view: view.entry_count),
        ("SERVING", serving),
        *((("DELETED", lambda view: moment(view.deleted_at)),) if deleted else ()),
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
    print_codebook(view, as_json=as_json)


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


@app.command()
def calibration(
    *,
    version: Annotated[
        int | None, typer.Argument(metavar="VERSION", help="Version of the calibration (default: the newest).")
    ] = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show one calibration of the served model: the presets and the numbers that they had."""
    with connect(control, home) as client:
        record = client.get_calibration(version)
    if as_json:
        print_json(record)
        return
    thresholds = tuple(f"{name} {parameters.threshold:g}" for name, parameters in record.presets.items())
    print_fields(
        (
            ("version", record.version),
            ("recommended", record.recommended),
            ("thresholds", thresholds),
            ("site", record.site),
            ("fingerprint", record.fingerprint),
            ("created", moment(record.created_at)),
        )
    )


@app.command()
def watch(
    *,
    name: CodebookArgument,
    after: Annotated[int, typer.Option(min=0, help="Number of the last revision that is known.")] = 0,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="How long (default: until Ctrl-C).")
    ] = None,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Print each revision as it is made, through restarts of the control plane."""
    with connect(control, home) as client:
        for view in client.watch_revisions(codebook_of(name, tenant), after_revision=after, timeout_s=timeout):
            sentence = f"revision {view.number}: {view.kind.value}, {view.entry_count} entries."
            say(view, sentence, as_json=as_json)


@app.command(context_settings={"ignore_unknown_options": True})
def diff(
    *,
    name: CodebookArgument,
    from_revision: Annotated[int, typer.Argument(metavar="FROM", help="Revision to start from; 0: nothing at all.")],
    to_revision: Annotated[
        int | None, typer.Argument(metavar="TO", help="Revision to arrive at (default: the current one).")
    ] = None,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show which entries two revisions do not share."""
    with connect(control, home) as client, Console(stderr=True).status(f"comparing revisions of {name}"):
        found = client.diff_revisions(codebook_of(name, tenant), from_revision, to_revision)
    if as_json:
        print_json(found)
        return
    columns: tuple[tuple[str, Any], ...] = (
        ("", lambda change: "+" if change.kind.value == "added" else "-"),
        ("EDIT", lambda change: change.edit_id),
        ("PROMPT", lambda change: change.prompt),
        ("TARGET", lambda change: change.target),
    )
    print_rows(found.changes, columns, as_json=False)
    typer.echo(_thresholds(found), err=True)


@app.command()
def delete(
    *,
    name: CodebookArgument,
    etag: EtagOption = "",
    request_id: RequestIdOption = None,
    validate_only: DryRunFlag = False,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take a codebook away; for 30 days `horen codebook undelete` brings it back."""
    with connect(control, home) as client:
        view = client.delete_codebook(
            codebook_of(name, tenant), etag=etag, request_id=request_id, validate_only=validate_only
        )
    say(view, f"{name} {'could be' if validate_only else 'is'} deleted; its name stays taken.", as_json=as_json)


@app.command()
def undelete(
    *,
    name: CodebookArgument,
    etag: EtagOption = "",
    request_id: RequestIdOption = None,
    validate_only: DryRunFlag = False,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring a deleted codebook back as it was."""
    with connect(control, home) as client:
        view = client.undelete_codebook(
            codebook_of(name, tenant), etag=etag, request_id=request_id, validate_only=validate_only
        )
    say(view, f"{name} {'could be' if validate_only else 'is'} back at revision {view.revision}.", as_json=as_json)


# Without this a negative revision would be an unknown option; the server says what is wrong with it.
@app.command(context_settings={"ignore_unknown_options": True})
def rollback(
    *,
    name: CodebookArgument,
    revision: Annotated[int, typer.Argument(metavar="REVISION", help="Revision whose entries to restore.")],
    etag: EtagOption = "",
    request_id: RequestIdOption = None,
    validate_only: DryRunFlag = False,
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
        made = client.rollback(book, revision, etag=etag, request_id=request_id, validate_only=validate_only)
        if validate_only:
            say(made, f"revision {revision} of {name} could be restored.", as_json=as_json)
            return
        if not wait:
            say(made, f"revision {made.number} of {name} restores revision {revision}.", as_json=as_json)
            return
        with Console(stderr=True).status(f"waiting until revision {made.number} is served"):
            view = client.wait_serving(book, made.number, timeout_s=timeout)
    say(view, f"revision {view.revision} of {name} is served everywhere.", as_json=as_json)


def _thresholds(diff: "DiffRecord") -> str:
    before = "nothing" if diff.from_threshold is None else f"threshold {diff.from_threshold:g}"
    return f"revision {diff.from_revision} ({before}) to {diff.to_revision} (threshold {diff.to_threshold:g})"
