"""Options of ``horen eval``, the same for every data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from horen_vllm.cli.explain import DEFAULT_SERVER
from horen_vllm.errors import InvalidArgument

DATASETS: Final = ("zsre", "wikibigedit", "unke", "counterfact", "knowedit", "mquake", "jsonl")
_DATA, _SERVER, _ASKED = "Data", "Server", "What is asked"

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The data set.")]
OutOption = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Folder of the run; the same command on it again goes on with it."),
]
EditsOption = Annotated[
    int | None, typer.Option("--edits", min=1, metavar="N", help="Length of the stream (default: all).")
]
CheckpointsOption = Annotated[
    str | None,
    typer.Option(metavar="N,N,...", help="Numbers of edits after which is asked (default: 1, 10, 100 ... and all)."),
]
ArmsOption = Annotated[
    str | None,
    typer.Option(
        metavar="ARM,...",
        help="Who is asked: base, retrieval, and presets, each in a codebook of its own "
        "(default: base,calibrated,retrieval).",
    ),
]
ThresholdOption = Annotated[
    list[str] | None,
    typer.Option(
        "--threshold",
        metavar="PRESET=C",
        help="Cosine of a preset's codebook, where it is not to be the calibrated or published one.",
    ),
]
SampleOption = Annotated[int, typer.Option(min=1, metavar="K", help="Most questions of a kind at a checkpoint.")]
SupersedeOption = Annotated[
    int, typer.Option(min=0, metavar="K", help="Edits that another one takes the place of at the end.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Which cases are asked, typing errors, intervals.")]
LayoutOption = Annotated[
    str | None,
    typer.Option(metavar="LAYOUT", help="Layout of the file (default: found from its fields).", rich_help_panel=_DATA),
]
ContradictoryOption = Annotated[
    bool,
    typer.Option(
        "--keep-contradictory",
        help="Submit edits that contradict an earlier one of the file, too.",
        rich_help_panel=_DATA,
    ),
]
OrdinaryOption = Annotated[
    Path | None,
    typer.Option(
        "--ordinary", metavar="FILE", help="Prompts of ordinary use, none of which may fire.", rich_help_panel=_DATA
    ),
]
AbilityOption = Annotated[
    Path | None,
    typer.Option(
        "--ability", metavar="FILE", help="Questions of general ability, with answers or not.", rich_help_panel=_DATA
    ),
]
SemanticOption = Annotated[
    Path | None,
    typer.Option(
        "--semantic-model", metavar="DIR", help="Sentence encoder for the semantic score.", rich_help_panel=_DATA
    ),
]
ProtocolsOption = Annotated[
    str | None,
    typer.Option(
        metavar="PROTOCOL,...",
        help="Protocols that are asked: paper, strict, passage, fire, continuation (default: all).",
        rich_help_panel=_ASKED,
    ),
]
WithoutOption = Annotated[
    str | None, typer.Option(metavar="KIND,...", help="Kinds that are not asked.", rich_help_panel=_ASKED)
]
ChatOption = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat",
        help="Whether the model has a chat template (default: it is tried).",
        rich_help_panel=_ASKED,
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help=f"Base URL of the OpenAI server (env: HOREN_SERVER; {DEFAULT_SERVER}).",
        rich_help_panel=_SERVER,
    ),
]
ModelNameOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="Name of the base model; offline: its folder.", rich_help_panel=_SERVER
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Model folder whose tokenizer the server must have.", rich_help_panel=_SERVER),
]
ConcurrencyOption = Annotated[int, typer.Option(min=1, max=1024, help="Questions in flight.", rich_help_panel=_SERVER)]
AttemptsOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=1000,
        help="Times that a question is asked while the server does not answer.",
        rich_help_panel=_SERVER,
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(min=1.0, metavar="SECONDS", help="Longest wait for one answer.", rich_help_panel=_SERVER),
]
PatienceOption = Annotated[
    float,
    typer.Option(min=1.0, metavar="SECONDS", help="Longest wait while no edit moves at all.", rich_help_panel=_SERVER),
]
NameOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name of the run, of which its codebooks have theirs (default: of the folder)."),
]
OfflineFlag = Annotated[
    bool,
    typer.Option("--offline", help="Ask the model in this process through transformers.", rich_help_panel=_SERVER),
]
CodebookFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--codebook",
        metavar="DIR",
        help="Offline: a codebook as `horen codebook save` writes it, which holds the edits.",
        rich_help_panel=_SERVER,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """What was asked for on the command line."""

    dataset: str
    file: Path
    out: Path
    edits: int | None
    checkpoints: tuple[int, ...] | None
    arms: tuple[str, ...] | None
    thresholds: dict[str, float]
    sample: int
    supersede: int
    seed: int
    layout: str | None
    keep_contradictory: bool
    ordinary: Path | None
    ability: Path | None
    semantic_model: Path | None
    protocols: tuple[str, ...] | None
    without: tuple[str, ...]
    chat: bool | None
    model: str | None
    tokenizer: Path | None
    concurrency: int
    patience: float
    name: str | None
    offline: bool
    codebook: Path | None


def names(text: str | None) -> tuple[str, ...]:
    """Return the parts of a list with commas."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def numbers(text: str | None) -> tuple[int, ...] | None:
    """Return the numbers of a list with commas, None for None; InvalidArgument ``invalid_checkpoints``."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in names(text))
    except ValueError as exc:
        message = f"{text!r} is no list of numbers such as 1,10,100."
        raise InvalidArgument(message, code="invalid_checkpoints") from exc


def thresholds_of(given: list[str] | None) -> dict[str, float]:
    """Return the thresholds by preset; InvalidArgument ``invalid_threshold``."""
    found: dict[str, Any] = {}
    for text in given or ():
        preset, _, value = text.partition("=")
        try:
            found[preset.strip()] = float(value)
        except ValueError as exc:
            message = f"{text!r} is no threshold such as cosine=0.85."
            raise InvalidArgument(message, code="invalid_threshold") from exc
    return found
