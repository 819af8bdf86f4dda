"""What a plan is made by."""

from dataclasses import dataclass, field

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.questions.drafts import Form
from horen_vllm.evals.records import Protocol, QuestionKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """How much is asked, of what, and when.

    Attributes
    ----------
    checkpoints
        Numbers of edits after which is asked, ascending; the last one is the length of the stream.
    sample
        Most questions of a kind and protocol at a checkpoint.
    ordinary
        Most prompts of ordinary use at the last checkpoint, where they are counted; None for all. At the others
        `sample` holds.
    supersede
        Edits that another one takes the place of at the end.
    retrieved
        Facts that the arm ``retrieval`` is given.
    seed
        Decides which cases are asked, and the typing errors.
    passages
        Whether the targets are passages of text, compared by overlap and not word for word.
    protocols, without
        Protocols that are asked, and kinds that are not.

    Raises
    ------
    InvalidArgument
        ``invalid_checkpoints``, ``invalid_sample``.
    """

    checkpoints: tuple[int, ...]
    sample: int = 500
    ordinary: int | None = None
    supersede: int = 50
    retrieved: int = 1
    seed: int = 0
    passages: bool = False
    protocols: frozenset[Protocol] = frozenset(Protocol)
    without: frozenset[QuestionKind] = frozenset()
    form: Form = field(default_factory=Form)

    def __post_init__(self) -> None:
        ascending = all(before < after for before, after in zip(self.checkpoints, self.checkpoints[1:], strict=False))
        if not self.checkpoints or not ascending or self.checkpoints[0] < 1:
            given = ", ".join(map(str, self.checkpoints)) or "none"
            raise InvalidArgument(
                f"the checkpoints must be ascending numbers of edits, from 1: {given}.", code="invalid_checkpoints"
            )
        for name, least in {"sample": 1, "ordinary": 0, "supersede": 0, "retrieved": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidArgument(f"{name} must be at least {least}, and is {value}.", code="invalid_sample")

    def wants(self, protocol: Protocol, kind: QuestionKind) -> bool:
        """Return whether questions of this protocol and kind are asked."""
        return protocol in self.protocols and kind not in self.without
