"""Asks an OpenAI-compatible server, greedily."""

from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from horen_vllm.errors import DataLoss, FailedPrecondition, HorenError, Unavailable
from horen_vllm.evals.asking.calling import Caller, NotNowError, Patience
from horen_vllm.evals.records import Answer, Message, Question

_COMPLETIONS: Final = "/v1/completions"
_CHAT: Final = "/v1/chat/completions"
_EASY: Final = "Hello"


class HttpAnswerer:
    """A server as an `Answerer`.

    What goes wrong on the way (no connection, a timeout, status 429 or 5xx, an answer that the server gave up) is
    tried again, with growing pauses, and is never an answer.

    Parameters
    ----------
    url, api_key, patience
        As of `Caller`.

    Raises
    ------
    InvalidArgument
        ``invalid_url``.
    FailedPrecondition
        ``insecure_channel``, for an API key that would travel to another machine in clear text.
    """

    def __init__(self, url: str, *, api_key: str | None = None, patience: Patience | None = None) -> None:
        self._caller = Caller(url, api_key=api_key, patience=patience)
        self._token_ids: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, question: Question) -> Answer:
        """Return the server's greedy answer.

        Raises
        ------
        InvalidArgument
            ``question_refused``.
        NotFound
            ``unknown_model`` or ``unknown_codebook``.
        Unauthenticated, PermissionDenied
            ``invalid_api_key``, ``key_scope``.
        Unavailable
            ``server_unavailable``; ``question_unanswered``, when the server answers another question of this kind
            and model meanwhile.
        DataLoss
            ``no_token_ids``, ``unreadable_answer``.
        FailedPrecondition
            ``no_decision``, when a codebook was asked and the answer does not say whether an edit fired; other codes
            of the server.
        """
        try:
            return self._ask(question)
        except Unavailable:
            if not self._answers_another(question):
                raise
            try:
                # It may have been down until just now.
                return self._ask(question, attempts=1)
            except Unavailable as again:
                if self._answers_another(question):
                    message = f"{again.message} Another question is answered meanwhile."
                    raise Unavailable(message, code="question_unanswered") from again
            raise

    def token_ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of `text` without special tokens; a text is asked for once. Raises as `ask`."""
        known = self._token_ids.get(text)
        if known is None:
            body = {"prompt": text, "add_special_tokens": False}
            known = self._caller.call("/tokenize", body, lambda answer, _seconds: tuple(_list(answer, "tokens")))
            self._token_ids[text] = known
        return known

    def model_names(self) -> tuple[str, ...]:
        """Return what ``/v1/models`` lists: the base model and the codebooks of the key's tenant. Raises as `ask`."""
        models = self._caller.call("/v1/models", None, lambda answer, _seconds: _list(answer, "data"))
        return tuple(str(model["id"]) for model in models)

    def _ask(self, question: Question, *, attempts: int | None = None) -> Answer:
        path, body = (_CHAT, _chat(question)) if question.messages else (_COMPLETIONS, _completion(question))
        return self._caller.call(
            path, body, lambda answer, seconds: _answer(question, answer, seconds), attempts=attempts
        )

    def _answers_another(self, question: Question) -> bool:
        """Whether the server answers a question that has nothing to it, asked of the same model in the same way."""
        chat = (Message(role="user", content=_EASY),)
        easy = {"messages": chat} if question.messages else {"prompt": _EASY}
        try:
            self._ask(replace(question, max_tokens=1, **easy), attempts=1)
        except HorenError:
            return False
        return True

    def close(self) -> None:
        """Close the connections; threads that still ask give up."""
        self._caller.close()


def _completion(question: Question) -> dict[str, Any]:
    return {"prompt": question.prompt, **_common(question)}


def _chat(question: Question) -> dict[str, Any]:
    messages = [{"role": message.role, "content": message.content} for message in question.messages]
    return {"messages": messages, **_common(question)}


def _common(question: Question) -> dict[str, Any]:
    common = {
        "model": question.model,
        "max_tokens": question.max_tokens,
        "temperature": 0.0,
        "return_token_ids": True,
    }
    # vLLM's own field: the tokens that end an answer are left out of the choice until then.
    return common if question.min_tokens is None else common | {"min_tokens": question.min_tokens}


def _answer(question: Question, body: dict[str, Any], seconds: float) -> Answer:
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"] if question.messages else choice["text"]
        reason = choice["finish_reason"]
    except (KeyError, IndexError, TypeError) as exc:
        raise DataLoss(f"the server's answer is not that of OpenAI's API: no {exc}.", code="unreadable_answer") from exc
    if reason not in {"stop", "length"}:
        # A server that stops ends what it is at with "abort": half an answer.
        raise NotNowError(f"the answer ended by {reason!r}")
    token_ids, prompt_ids = choice.get("token_ids"), choice.get("prompt_token_ids") or body.get("prompt_token_ids")
    if token_ids is None or prompt_ids is None:
        raise DataLoss("the server's answer has no token ids to compare.", code="no_token_ids")
    decision = choice.get("horen") or {}
    if "@" in question.model and not decision:
        message = f"the answer of {question.model} does not say whether an edit fired: is it a server of horen?"
        raise FailedPrecondition(message, code="no_decision")
    return Answer(
        text=text or "",
        token_ids=tuple(token_ids),
        prompt_token_ids=tuple(prompt_ids),
        finish_reason=reason,
        edit_id=decision.get("edit_id"),
        score=decision.get("score"),
        revision=decision.get("revision"),
        seconds=seconds,
    )


def _list(body: dict[str, Any], name: str) -> list[Any]:
    value = body.get(name)
    if not isinstance(value, list):
        raise DataLoss(f"the server's answer has no list {name!r}.", code="unreadable_answer")
    return value
