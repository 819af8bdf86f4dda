"""One background prompt."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackgroundPrompt:
    """A prompt of a fact that is not edited, of the kind that users ask."""

    prompt: str
    subject: str | None = None
    """What the fact is about, as in the prompt; None when that is not known or there is no such thing."""
    relation: str | None = None
    """What the prompt asks about the subject: an identifier that other prompts of the same kind share."""
    rephrases: tuple[str, ...] = ()
    """Other wordings of the same question."""
