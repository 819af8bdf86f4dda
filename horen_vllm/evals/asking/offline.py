"""Asks a model in this process: transformers in float32, one question at a time, for small models."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from horen_vllm.core.presets import SpanMode
from horen_vllm.errors import FailedPrecondition, InvalidArgument, NotFound
from horen_vllm.evals.asking.offline_prompts import PromptMaker
from horen_vllm.evals.asking.offline_routing import OfflineCodebook, Routing
from horen_vllm.evals.records import Answer, Question
from horen_vllm.fingerprint import model_fingerprint
from horen_vllm.ids import DEFAULT_TENANT, TenantId
from horen_vllm.static import StaticCodebook, list_static, read_static

_CLEAN: Final = Routing()


class TransformersAnswerer:
    """A model folder, alone and with the static codebooks of a tenant, as an `Answerer`.

    Answers are those of a server of the same folder in float32, but for rounding. Generation settings of the folder
    other than its end tokens (a repetition penalty, say), which vLLM would apply, are not.

    Parameters
    ----------
    folder
        The model.
    name
        What questions call it: the folder's name when None.
    codebooks
        A folder as ``horen codebook save`` writes it; its codebooks are asked as ``NAME@CODEBOOK``. None: no codebook.
    tenant
        Whose codebooks of that folder.

    Raises
    ------
    FailedPrecondition
        ``model_folder_invalid``; ``fingerprint_mismatch``, for a codebook of another base model; ``unknown_site``.
    NotFound, DataLoss
        As `static.read_static`.
    """

    def __init__(
        self, folder: Path, *, name: str | None = None, codebooks: Path | None = None, tenant: TenantId = DEFAULT_TENANT
    ) -> None:
        self._name = name or folder.resolve().name
        self._model, self._tokenizer = _load(folder)
        self._prompts = PromptMaker(self._tokenizer)
        self._end_ids = _end_ids(self._model, self._tokenizer)
        self._longest = int(self._model.config.max_position_embeddings)
        self.codebooks: dict[str, StaticCodebook] = {}
        """The codebooks that can be asked, by name."""
        self._books: dict[str, tuple[OfflineCodebook, Any]] = {}
        if codebooks is not None:
            self._read(folder, codebooks, tenant)
        self._lock = Lock()

    def ask(self, question: Question) -> Answer:
        """Return the greedy answer.

        Raises
        ------
        InvalidArgument
            ``question_refused``, also when prompt and answer exceed the model's length.
        NotFound
            ``unknown_model``, ``unknown_codebook``.
        FailedPrecondition
            ``unsupported_tokenizer``.
        """
        book, site = self._addressed(question.model)
        prompt_ids, span = self._prompts.prompt(question, SpanMode.PROMPT if book is None else book.parameters.span)
        if len(prompt_ids) + question.max_tokens > self._longest:
            message = f"{len(prompt_ids)} + {question.max_tokens} tokens are more than the model's {self._longest}."
            raise InvalidArgument(message, code="question_refused")
        with self._lock, torch.inference_mode():
            began = time.perf_counter()
            routing, step = self._routed(prompt_ids, span, book, site)
            token_ids = self._generate(step, prompt_ids, question, routing, site)
            seconds = time.perf_counter() - began
        stopped = token_ids[-1] in self._end_ids
        return Answer(
            text=self._prompts.text(prompt_ids, token_ids[:-1] if stopped else token_ids),
            token_ids=token_ids,
            prompt_token_ids=prompt_ids,
            finish_reason="stop" if stopped else "length",
            edit_id=routing.entry.manifest.edit_id if routing.entry is not None else None,
            revision=None if book is None else book.revision,
            score=routing.score,
            seconds=seconds,
        )

    def token_ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of `text` without special tokens."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def model_names(self) -> tuple[str, ...]:
        """Return the model's name, and that of each codebook."""
        return (self._name, *(f"{self._name}@{codebook}" for codebook in self._books))

    def _read(self, model: Path, folder: Path, tenant: TenantId) -> None:
        sites = {described.name: described.site for described in list_static(folder)}
        modules = dict(self._model.named_modules())
        for codebook in read_static(folder):
            site = sites[codebook.name]
            if codebook.name.tenant != tenant:
                continue
            if codebook.fingerprint != model_fingerprint(model, site):
                message = f"the codebook {codebook.name} was made for another base model than the one in {model}."
                raise FailedPrecondition(message, code="fingerprint_mismatch")
            self.codebooks[codebook.name.codebook] = codebook
            self._books[codebook.name.codebook] = OfflineCodebook(codebook, self._tokenizer), modules[site]

    def _addressed(self, model: str) -> tuple[OfflineCodebook | None, Any]:
        if model == self._name:
            return None, None
        base, _, codebook = model.rpartition("@")
        if base != self._name:
            raise NotFound(f"the model is called {self._name!r}, not {model!r}.", code="unknown_model")
        if codebook not in self._books:
            raise NotFound(f"there is no static codebook {codebook!r}.", code="unknown_codebook")
        return self._books[codebook]

    def _routed(
        self, prompt_ids: Sequence[int], span: tuple[int, int], book: OfflineCodebook | None, site: Any
    ) -> tuple[Routing, Any]:
        """Return the decision, and the model's output over the prompt with what it writes there."""
        if book is None:
            return _CLEAN, self._model(torch.tensor([prompt_ids]), use_cache=True)
        inputs: list[torch.Tensor] = []
        with _hooked(site.register_forward_pre_hook(lambda _module, args: inputs.append(args[0][0].float()))):
            clean = self._model(torch.tensor([prompt_ids]), use_cache=True)
        routing = book.route(inputs[0], prompt_ids, span)
        if routing.entry is None:
            return routing, clean
        with _writing(site, routing, first=0, prompt_length=len(prompt_ids)):
            return routing, self._model(torch.tensor([prompt_ids]), use_cache=True)

    def _generate(
        self, step: Any, prompt_ids: Sequence[int], question: Question, routing: Routing, site: Any
    ) -> tuple[int, ...]:
        least = question.min_tokens or 0
        said = [self._next(step, may_end=least < 1)]
        while len(said) < question.max_tokens and said[-1] not in self._end_ids:
            place = len(prompt_ids) + len(said) - 1
            with _writing(site, routing, first=place, prompt_length=len(prompt_ids)):
                step = self._model(torch.tensor([said[-1:]]), past_key_values=step.past_key_values, use_cache=True)
            said.append(self._next(step, may_end=len(said) >= least))
        return tuple(said)

    def _next(self, step: Any, *, may_end: bool) -> int:
        logits_V = step.logits[0, -1]
        if not may_end:
            logits_V = logits_V.clone()
            logits_V[list(self._end_ids)] = -math.inf
        return int(logits_V.argmax())


@contextmanager
def _hooked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _writing(site: Any, routing: Routing, *, first: int, prompt_length: int) -> Iterator[None]:
    """Let the entry write the site's output while open, in a pass that computes positions from `first` on."""
    entry = routing.entry
    # Behind the span the model runs clean.
    if entry is None or first - (prompt_length - 1) >= entry.manifest.span:
        yield
        return

    def write(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        for row in range(output.shape[1]):
            output[0, row] = routing.written(output[0, row], first + row - (prompt_length - 1))
        return output

    with _hooked(site.register_forward_hook(write)):
        yield


def _load(folder: Path) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as exc:
        message = f"the model in {folder} cannot be loaded: {exc}"
        raise FailedPrecondition(message, code="model_folder_invalid") from exc
    model.train(mode=False)
    return model, tokenizer


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer, as vLLM finds them: the tokenizer's, and those of the generation config."""
    listed = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [listed] if isinstance(listed, int) else list(listed or [])
    return frozenset(token for token in (tokenizer.eos_token_id, *ends) if token is not None)
