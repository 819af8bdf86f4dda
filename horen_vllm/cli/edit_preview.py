"""``horen edit preview``: what an edit would collide with, before it is submitted."""

from typing import Annotated

import typer

from horen_vllm.cli.codebook_options import CodebookArgument
from horen_vllm.cli.connection import ControlOption, HomeOption, TenantOption, codebook_of, connect
from horen_vllm.cli.edit_options import (
    AliasOption,
    MustNotFireOption,
    ParaphraseOption,
    PromptOption,
    SubjectOption,
    TargetOption,
)
from horen_vllm.cli.exits import CHECK_FAILED
from horen_vllm.cli.output import JsonFlag, print_fields, print_json, print_rows
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.preview_records import PreviewVerdict


def preview(
    *,
    codebook: CodebookArgument,
    prompt: PromptOption,
    target: TargetOption,
    subject: SubjectOption = None,
    alias: AliasOption = None,
    paraphrase: ParaphraseOption = None,
    must_not_fire: MustNotFireOption = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.5, metavar="SECONDS", help="How long to wait for a worker at most.")
    ] = 30.0,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what would become of an edit, and whose answers it touches; nothing is stored.

    An edit that would be refused is exit code 1.
    """
    spec = EditSpec(
        prompt=prompt,
        target=target,
        subject=subject,
        aliases=tuple(alias or ()),
        paraphrases=tuple(paraphrase or ()),
        must_not_fire=tuple(must_not_fire or ()),
    )
    with connect(control, home) as client:
        view = client.preview_edit(codebook_of(codebook, tenant), spec, timeout_s=timeout)
    if as_json:
        print_json(view)
    else:
        print_fields(
            (
                ("verdict", view.verdict.value),
                ("why", view.refusal),
                ("edits", view.related),
                ("revision", view.revision),
            )
        )
        if view.collisions:
            columns = (
                ("EDIT", lambda it: it.edit_id),
                ("SCORE", lambda it: f"{it.score:.4f}"),
                ("THRESHOLD", lambda it: f"{it.threshold:.4f}"),
                ("TEXT", lambda it: it.text),
                ("PROMPT", lambda it: it.prompt),
                ("TARGET", lambda it: it.target),
            )
            print_rows(view.collisions, columns, as_json=False)
    if view.verdict is PreviewVerdict.REFUSED:
        raise typer.Exit(CHECK_FAILED)
