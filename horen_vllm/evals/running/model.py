"""What is to be known of a served model before it is asked in earnest."""

from horen_vllm.errors import InvalidArgument, NotFound
from horen_vllm.evals.asking.answerer import Answerer
from horen_vllm.evals.records import Message, Protocol, Question, QuestionKind


def base_model(answerer: Answerer, wanted: str | None) -> str:
    """Return the name of the base model.

    Parameters
    ----------
    wanted
        Its name, where the server offers several.

    Raises
    ------
    NotFound
        ``unknown_model``: the server does not offer it.
    InvalidArgument
        ``model_required``: it offers several, and none is named.
    """
    names = [name for name in answerer.model_names() if "@" not in name]
    if wanted is not None:
        if wanted not in names:
            message = f"the server offers no base model {wanted!r}, but {', '.join(names) or 'none'}."
            raise NotFound(message, code="unknown_model")
        return wanted
    if len(names) != 1:
        raise InvalidArgument(f"the server offers {', '.join(names) or 'none'}: name one.", code="model_required")
    return names[0]


def has_chat(answerer: Answerer, model: str) -> bool:
    """Return whether the model answers chats: without a template in its tokenizer it cannot."""
    question = Question(
        question_id="chat",
        arm="base",
        model=model,
        checkpoint=0,
        protocol=Protocol.STRICT,
        kind=QuestionKind.ORDINARY,
        messages=(Message(role="user", content="Hello"),),
        max_tokens=1,
    )
    try:
        answerer.ask(question)
    except InvalidArgument:
        return False
    return True
