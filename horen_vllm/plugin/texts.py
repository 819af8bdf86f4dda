"""The words of prompts, for codebooks that read them: the worker's own tokenizer, loaded once such a codebook comes."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from horen_vllm.core.words import TokenText
from horen_vllm.errors import FailedPrecondition, HorenError
from horen_vllm.pieces import token_text


class PromptTexts:
    """From token ids to text. Safe for use from several threads.

    Parameters
    ----------
    load
        Returns the model's transformers tokenizer; called at most once.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._tokenizer: Any = None
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Load the tokenizer unless it is here, so that no request waits for it.

        Raises
        ------
        FailedPrecondition
            ``unsupported_tokenizer``, when there is none or it cannot tell which token a character belongs to.
        """
        with self._lock:
            if self._tokenizer is None:
                tokenizer = self._loaded()
                token_text(tokenizer, (), (0, 0))
                self._tokenizer = tokenizer

    def of(self, prompt_ids: Sequence[int], span: tuple[int, int]) -> TokenText:
        """Return the text of a prompt's tokens [first, stop); raises as `prepare`."""
        self.prepare()
        return token_text(self._tokenizer, prompt_ids, span)

    def _loaded(self) -> Any:
        try:
            return self._load()
        except HorenError:
            raise
        except Exception as exc:
            message = f"the model's tokenizer cannot be loaded ({type(exc).__name__}), and the codebook reads words."
            raise FailedPrecondition(message, code="unsupported_tokenizer") from exc


def texts_of(model_config: Any) -> PromptTexts:
    """Return the texts of a served model (vLLM's ``ModelConfig``)."""

    def load() -> Any:
        from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds, and few codebooks need it

        return AutoTokenizer.from_pretrained(
            model_config.tokenizer,
            revision=model_config.tokenizer_revision,
            trust_remote_code=model_config.trust_remote_code,
        )

    return PromptTexts(load)


def no_texts() -> PromptTexts:
    """Return the texts of a worker without a tokenizer."""

    def load() -> Any:
        message = "this worker has no tokenizer, and the codebook reads words."
        raise FailedPrecondition(message, code="unsupported_tokenizer")

    return PromptTexts(load)
