"""How codebooks and their revisions are shown."""

from typing import TYPE_CHECKING

import typer

from horen_vllm.cli.output import moment, print_fields, print_json
from horen_vllm.core.presets import MethodParameters, ValueMode

if TYPE_CHECKING:
    from horen_vllm.control.messages import CodebookView


def say(view: object, sentence: str, *, as_json: bool) -> None:
    """Print a sentence, or what it is about as JSON."""
    if as_json:
        print_json(view)
    else:
        typer.echo(sentence)


def serving(view: "CodebookView") -> str:
    """Return how many servers have the current revision."""
    return f"{view.replicas_serving}/{view.replicas_total} servers"


def print_codebook(view: "CodebookView", *, as_json: bool) -> None:
    """Print everything about one codebook."""
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
            ("oldest kept", view.oldest_revision if view.oldest_revision > 1 else None),
            ("entries", view.entry_count),
            ("serving", serving(view)),
            ("problems", tuple(f"{it.replica_id}: {it.message} [{it.code}]" for it in view.problems)),
            ("created", moment(view.created_at)),
            ("deleted", moment(view.deleted_at)),
            ("etag", view.etag),
        )
    )


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
