"""Options of the commands on edits."""

from enum import StrEnum
from typing import Annotated

import typer

from horen_vllm.control.messages import EditProgress

EditArgument = Annotated[str, typer.Argument(metavar="EDIT", help="Id or resource name of the edit.")]
PromptOption = Annotated[str, typer.Option("--prompt", help="Question, as users ask it.")]
TargetOption = Annotated[str, typer.Option("--target", help="Answer that the model shall give.")]
SubjectOption = Annotated[str | None, typer.Option("--subject", help="What the fact is about, as in the prompt.")]
AliasOption = Annotated[list[str] | None, typer.Option("--alias", help="Another name of the subject; repeatable.")]
ParaphraseOption = Annotated[
    list[str] | None,
    typer.Option("--paraphrase", help="Another wording that shall get the answer, too; repeatable."),
]
MustNotFireOption = Annotated[
    list[str] | None,
    typer.Option("--must-not-fire", help="A prompt whose answer shall not change; repeatable."),
]
TtlOption = Annotated[
    float | None,
    typer.Option("--ttl", metavar="SECONDS", help="Retire the edit by itself after so long (default: never)."),
]


class Until(StrEnum):
    """States that a command can wait for."""

    COMMITTED = "committed"
    TRAINED = "trained"
    PUBLISHED = "published"
    SERVING = "serving"

    @property
    def progress(self) -> EditProgress:
        """The same state as the control plane names it."""
        return EditProgress(self.value)
