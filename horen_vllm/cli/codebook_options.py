"""Options of the commands on codebooks."""

from typing import Annotated

import typer

from horen_vllm.core.presets import PRESETS, ValueMode

CodebookArgument = Annotated[str, typer.Argument(metavar="CODEBOOK", help="Name of the codebook.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="How long to wait at most.")
]
EtagOption = Annotated[
    str, typer.Option("--etag", metavar="ETAG", help="Refuse when the codebook has changed since it had this etag.")
]
RequestIdOption = Annotated[
    str | None, typer.Option("--request-id", metavar="ID", help="The same id within a day makes the change only once.")
]
DryRunFlag = Annotated[bool, typer.Option("--validate-only", help="Check everything and change nothing.")]

PresetOption = Annotated[
    str | None,
    typer.Option(help=f"Method parameters: {', '.join(PRESETS)} (default: what the calibration recommends)."),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(help="Cosine above which an entry matches, whatever else is in the codebook (default: the preset's)."),
]
FalseFireRateOption = Annotated[
    float | None,
    typer.Option(help="Share of unrelated questions that may match; the threshold follows (default: the preset's)."),
]
AnchorsOption = Annotated[
    bool | None,
    typer.Option(
        "--anchors/--no-anchors",
        help="Edits with a subject match only where it or an alias occurs (default: the preset's choice).",
    ),
]
AnchoredThresholdOption = Annotated[
    float | None, typer.Option(help="Threshold of edits with a subject, with --anchors (default: the preset's).")
]
MaskSubjectOption = Annotated[
    bool | None,
    typer.Option(
        "--mask-subject/--no-mask-subject",
        help="Compare edits with a subject without its words, with --anchors (default: the preset's choice).",
    ),
]
ValueModeOption = Annotated[
    ValueMode | None, typer.Option(help="Answer positions that a value is written at (default: the preset's).")
]
WindowRatioOption = Annotated[
    float | None, typer.Option(help="Share of the prompt, from its end, that is averaged (default: the preset's).")
]
RankOption = Annotated[int | None, typer.Option(help="Rank of LoRA values; 0: direct vectors (default: the preset's).")]
MaxValueRowsOption = Annotated[
    int | None, typer.Option(help="Most vectors of a `sequence` value (default: the preset's).")
]
EndOption = Annotated[
    bool | None,
    typer.Option("--end/--no-end", help="Train the end of the answer, too (default: the preset's choice)."),
]
ChatOption = Annotated[
    bool | None,
    typer.Option("--chat/--no-chat", help="Key edits in chat form, too (default: the preset's choice)."),
]
PrefixesOption = Annotated[
    int | None, typer.Option(help="Short openings behind which edits are keyed, too (default: the preset's).")
]
