"""``horen codebook save``: the current revision of a codebook as files that need no control plane."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from horen_vllm.cli.artifacts import ArtifactsOption, artifact_source
from horen_vllm.cli.connection import ControlOption, HomeOption, TenantOption, codebook_of, connect
from horen_vllm.cli.output import JsonFlag, print_json
from horen_vllm.errors import Unavailable

if TYPE_CHECKING:
    from horen_vllm.control.client import HorenClient
    from horen_vllm.control.messages import CodebookView, DeltaView


def save(
    *,
    name: Annotated[str, typer.Argument(metavar="CODEBOOK", help="Name of the codebook.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder of static codebooks; made if need be.")],
    artifacts: ArtifactsOption = None,
    tenant: TenantOption = None,
    control: ControlOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a codebook's current revision as files, for additional_config.horen.static_dir."""
    # They bring PyTorch, which costs seconds that `horen --help` does not need.
    from horen_vllm.static import StaticDescription, StaticEntry, write_static  # noqa: PLC0415

    with connect(control, home) as client:
        delta = _everything(client, client.get_codebook(codebook_of(name, tenant)))
    view = delta.codebook
    described = StaticDescription(
        name=view.name,
        model=view.model,
        fingerprint=view.fingerprint,
        site=view.site,
        revision=delta.revision,
        parameters=view.parameters,
        entries=tuple(
            StaticEntry(edit_id=entry.edit_id, sequence=entry.sequence, artifact=entry.artifact)
            for entry in delta.added
        ),
    )
    source = artifact_source(artifacts, home=home, otherwise=os.environ.get("HOREN_HOME", "."))
    written = write_static(to, described, source.open())
    entries = len(delta.added)
    if as_json:
        print_json({"codebook": view.name, "revision": delta.revision, "entries": entries, "path": str(written)})
    else:
        typer.echo(f"revision {delta.revision} of {view.name.codebook} with {entries} entries: {written}")


def _everything(client: "HorenClient", view: "CodebookView") -> "DeltaView":
    """Return the codebook's current revision from nothing, as a server that has only this one to load is told it."""
    others = {it.name: it.revision for it in client.list_codebooks(view.name.tenant) if it.name != view.name}
    news = client.sync(
        "codebook-save", model=view.model, fingerprint=view.fingerprint, known=others, epoch=client.epoch()
    )
    found = next((delta for delta in news.deltas if delta.codebook.name == view.name), None)
    if found is None:
        raise Unavailable(f"{view.name} changed while it was read; try again.", code="codebook_changed")
    return found
