"""``horen edit``: submit edits, follow them, take them back."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from horen_vllm.cli.codebook_options import CodebookArgument, DryRunFlag, RequestIdOption, TimeoutOption
from horen_vllm.cli.connection import ControlOption, HomeOption, TenantOption, codebook_of, connect, edit_of
from horen_vllm.cli.edit_batch import batch
from horen_vllm.cli.edit_options import (
    AliasOption,
    EditArgument,
    MustNotFireOption,
    ParaphraseOption,
    PromptOption,
    SubjectOption,
    TargetOption,
    TtlOption,
    Until,
)
from horen_vllm.cli.edit_preview import preview
from horen_vllm.cli.output import JsonFlag, moment, print_fields, print_json, print_rows
from horen_vllm.control.messages import EditProgress, EditView
from horen_vllm.errors import FailedPrecondition, Unavailable
from horen_vllm.registry.models import AttemptRecord, EditSpec

if TYPE_CHECKING:
    from horen_vllm.control.client import HorenClient

app = typer.Typer(help="Submit edits, follow them, take them back.", no_args_is_help=True)

app.command()(batch)
app.command()(preview)


@app.command()
def submit(
    *,
    codebook: CodebookArgument,
    prompt: PromptOption,
    target: TargetOption,
    subject: SubjectOption = None,
    alias: AliasOption = None,
    paraphrase: ParaphraseOption = None,
    must_not_fire: MustNotFireOption = None,
    ttl: TtlOption = None,
    wait: Annotated[Until, typer.Option(help="State to wait for.")] = Until.SERVING,
    timeout: TimeoutOption = 60.0,
    request_id: RequestIdOption = None,
    validate_only: DryRunFlag = False,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Submit an edit and wait until it is served."""
    spec = EditSpec(
        prompt=prompt,
        target=target,
        subject=subject,
        aliases=tuple(alias or ()),
        paraphrases=tuple(paraphrase or ()),
        must_not_fire=tuple(must_not_fire or ()),
    )
    with connect(control, home) as client:
        edit = client.submit_edit(
            codebook_of(codebook, tenant), spec, ttl_s=ttl, request_id=request_id, validate_only=validate_only
        )
        if not validate_only:
            edit = _follow(client, edit, wait.progress, timeout)
    _print_edit(edit, as_json=as_json)
    _check_outcome(edit, wait.progress)


@app.command("list")
def list_(
    *,
    codebook: CodebookArgument,
    state: Annotated[EditProgress | None, typer.Option(help="Only edits in this state.")] = None,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the edits of a codebook, oldest first."""
    with connect(control, home) as client:
        edits = list(client.list_edits(codebook_of(codebook, tenant), states=(state,) if state else ()))
    columns = (
        ("EDIT", lambda edit: edit.edit_id),
        ("STATE", lambda edit: edit.state.value),
        ("REVISION", lambda edit: edit.published_revision),
        ("REASON", lambda edit: edit.reason_code),
        ("PROMPT", lambda edit: edit.spec.prompt),
        ("TARGET", lambda edit: edit.spec.target),
        ("CREATED", lambda edit: moment(edit.created_at)),
    )
    print_rows(edits, columns, as_json=as_json)


@app.command()
def show(
    *,
    edit: EditArgument,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show one edit and its whole story."""
    with connect(control, home) as client:
        view = client.get_edit(edit_of(edit, tenant))
    _print_edit(view, as_json=as_json)


@app.command()
def retire(
    *,
    edit: EditArgument,
    etag: Annotated[
        str, typer.Option("--etag", metavar="ETAG", help="Refuse when the edit has changed since it had this etag.")
    ] = "",
    request_id: RequestIdOption = None,
    validate_only: DryRunFlag = False,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take an edit back for good; only a rollback to a revision with it brings it back."""
    with connect(control, home) as client:
        view = client.retire_edit(edit_of(edit, tenant), etag=etag, request_id=request_id, validate_only=validate_only)
    _print_edit(view, as_json=as_json)


@app.command()
def watch(
    *,
    edit: EditArgument,
    until: Annotated[Until, typer.Option(help="State at which to stop.")] = Until.SERVING,
    timeout: TimeoutOption = 60.0,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Print an edit's state now and at each change; with --json one object on each line."""
    view: EditView | None = None
    with connect(control, home) as client:
        for view in client.watch_edit(edit_of(edit, tenant), until=until.progress, timeout_s=timeout):
            if as_json:
                print_json(view)
            else:
                typer.echo(f"{moment(view.updated_at)}  {_state(view)}")
    _check_outcome(_check_reached(view, edit, until.progress, timeout), until.progress)


def _follow(client: "HorenClient", edit: EditView, until: EditProgress, timeout_s: float) -> EditView:
    """Return the edit once it has reached `until`, showing its state on the way; Unavailable ``wait_timeout``."""
    if edit.state.reached(until):
        return edit
    with Console(stderr=True).status(_state(edit)) as status:
        for view in client.watch_edit(edit, until=until, timeout_s=timeout_s):
            status.update(escape(_state(view)))
            edit = view
    return _check_reached(edit, edit.name, until, timeout_s)


def _check_reached(edit: EditView | None, name: str, until: EditProgress, timeout_s: float) -> EditView:
    if edit is None or not edit.state.reached(until):
        state = edit.state.value if edit else "unknown"
        trouble = f"; {edit.reason}" if edit and _failing(edit) else "."
        message = f"edit {name} is not {until.value} after {timeout_s:g} s: it is {state}{trouble}"
        raise Unavailable(message, code="wait_timeout")
    return edit


def _check_outcome(edit: EditView, until: EditProgress) -> None:
    if edit.state == EditProgress.FAILED:
        message = f"edit {edit.edit_id} failed: {edit.reason or 'no reason was given.'}"
        raise FailedPrecondition(message, code=edit.reason_code or "edit_failed")
    if edit.state == EditProgress.INACTIVE and until != EditProgress.COMMITTED:
        message = f"edit {edit.edit_id} was published and is no longer part of the codebook's current revision."
        raise FailedPrecondition(message, code="edit_inactive")


def _state(edit: EditView) -> str:
    if edit.state in {EditProgress.PUBLISHED, EditProgress.SERVING}:
        served = f"{edit.replicas_serving}/{edit.replicas_total} servers"
        trouble = f": {edit.reason}" if edit.reason else ""
        return f"{edit.edit_id} {edit.state.value} (revision {edit.published_revision}, {served}){trouble}"
    return f"{edit.edit_id} {edit.state.value}"


def _failing(edit: EditView) -> bool:
    """Whether the edit's reason says what is wrong; else it is a note on an edit that is published all the same."""
    return edit.state == EditProgress.FAILED or edit.reason_code == "probe_failed"


def _attempt(attempt: AttemptRecord) -> str:
    return f"{attempt.number}: {attempt.worker} {attempt.outcome or 'at work'}"


def _print_edit(edit: EditView, *, as_json: bool) -> None:
    if as_json:
        print_json(edit)
        return
    print_fields(
        (
            ("edit", edit.edit_id),
            ("codebook", edit.codebook.codebook),
            ("state", edit.state.value),
            ("reason" if _failing(edit) else "note", edit.reason),
            ("prompt", edit.spec.prompt),
            ("target", edit.spec.target),
            ("subject", edit.spec.subject),
            ("aliases", edit.spec.aliases),
            ("paraphrases", edit.spec.paraphrases),
            ("must not fire", edit.spec.must_not_fire),
            ("revision", edit.published_revision),
            ("same as", edit.same_as),
            ("alias of", edit.alias_of),
            ("supersedes", edit.supersedes),
            ("overlaps", edit.overlaps),
            ("servers", f"{edit.replicas_serving}/{edit.replicas_total}"),
            ("created", moment(edit.created_at)),
            ("published", moment(edit.published_at)),
            ("expires", moment(edit.expires_at)),
            ("retired", moment(edit.retired_at)),
            ("attempts", tuple(map(_attempt, edit.attempts))),
            ("etag", edit.etag),
        )
    )
