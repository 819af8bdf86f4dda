"""A served model as a user sees it: greedy questions to the OpenAI API, with what fired."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from openai import APIConnectionError, OpenAI

from horen_vllm.errors import DataLoss, Unavailable


@dataclass(frozen=True, slots=True)
class Answer:
    """One greedy answer.

    Attributes
    ----------
    text
        Generated text without outer white space.
    token_ids
        Generated token ids, the end token included when it was generated.
    edit_id
        The edit that fired; None when none did, and for the clean model.
    score
        Best score of the codebook; None for the clean model and an empty codebook.
    """

    text: str
    token_ids: tuple[int, ...]
    edit_id: str | None
    score: float | None

    @property
    def fired(self) -> bool:
        """Whether an edit answered."""
        return self.edit_id is not None


class Endpoint:
    """An OpenAI-compatible server.

    Parameters
    ----------
    base_url
        ``http://host:port`` without ``/v1``.
    concurrency
        Requests in flight in `ask_all`.
    timeout_s
        Longest wait for one answer, in seconds.
    """

    def __init__(self, base_url: str, *, concurrency: int = 8, timeout_s: float = 120.0) -> None:
        self._client = OpenAI(base_url=f"{base_url}/v1", api_key="unused", timeout=timeout_s, max_retries=0)
        self._concurrency = concurrency

    def ask(self, model: str, prompt: str, *, max_tokens: int = 16) -> Answer:
        """Return the greedy completion of `prompt`.

        Raises
        ------
        Unavailable
            ``server_unavailable``, when nothing answers at the address.
        DataLoss
            ``no_token_ids``, when the answer does not carry them, as vLLM's does.
        """
        try:
            response = self._client.completions.create(
                model=model,
                prompt=prompt,
                max_tokens=max_tokens,
                temperature=0.0,
                extra_body={"return_token_ids": True},
            )
        except APIConnectionError as exc:
            raise Unavailable("the server does not answer.", code="server_unavailable") from exc
        return _answer(response.choices[0], response.choices[0].text)

    def ask_all(self, model: str, prompts: Sequence[str], *, max_tokens: int = 16) -> list[Answer]:
        """Return the greedy completions of `prompts` in order, several in flight at a time."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(lambda prompt: self.ask(model, prompt, max_tokens=max_tokens), prompts))

    def chat_all(self, model: str, questions: Sequence[str], *, max_tokens: int = 16) -> list[Answer]:
        """Return the greedy chat answers to `questions` in order, several in flight at a time."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(lambda question: self.chat(model, question, max_tokens=max_tokens), questions))

    def chat(self, model: str, question: str, *, max_tokens: int = 16) -> Answer:
        """Return the greedy chat answer to one user message."""
        response = self._client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=max_tokens,
            temperature=0.0,
            extra_body={"return_token_ids": True},
        )
        return _answer(response.choices[0], response.choices[0].message.content or "")


def _answer(choice: Any, text: str) -> Answer:
    decision = (choice.model_extra or {}).get("horen") or {}
    token_ids = (choice.model_extra or {}).get("token_ids")
    if not token_ids:
        raise DataLoss("the server's answer has no token ids to compare.", code="no_token_ids")
    return Answer(text.strip(), tuple(token_ids), decision.get("edit_id"), decision.get("score"))
