"""How alike two texts are in meaning: the cosine of their sentence embeddings, by an encoder in a local folder.

This is what UnKE's evaluation computes with all-MiniLM-L6-v2 and calls "Bert Score"; it is not BERTScore (Zhang et al.
2020), which matches token with token. No encoder comes with this package: without a folder there is no semantic score.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from horen_vllm.errors import FailedPrecondition

_BATCH: Final = 32
_LONGEST: Final = 512
"""Tokens read of a text where the folder does not say."""
_OLD_POOLING: Final = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}


class SentenceEncoder:
    """A transformer encoder, pooled as its folder says, in fp32.

    Parameters
    ----------
    folder
        As sentence-transformers writes it, pooled by ``mean`` or ``cls``; or of transformers alone, and then pooled by
        ``mean`` (Reimers and Gurevych 2019).

    Raises
    ------
    FailedPrecondition
        ``model_folder_invalid``, when it cannot be loaded, lacks weights or is pooled otherwise.
    """

    def __init__(self, folder: Path) -> None:
        self._pooling = _pooling(folder)
        self._tokenizer, self._model = _load(folder)
        self._longest = min(
            _longest(folder), self._tokenizer.model_max_length, self._model.config.max_position_embeddings
        )

    def __call__(self, answer: str, reference: str) -> float:
        """Return the similarity of two texts: -1 to 1, 1 for equal ones."""
        return self.similarities([(answer, reference)])[0]

    @torch.inference_mode()
    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the similarity of each pair, several at a time."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        # Texts of like length stand together, so that little of a batch is padding.
        texts.sort(key=len)
        rows: dict[str, torch.Tensor] = {}
        for start in range(0, len(texts), _BATCH):
            batch = texts[start : start + _BATCH]
            rows |= dict(zip(batch, self._embed(batch), strict=True))
        return [float(rows[answer] @ rows[reference]) for answer, reference in pairs]

    def _embed(self, texts: list[str]) -> torch.Tensor:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._longest, return_tensors="pt", padding_side="right"
        )
        states = self._model(**tokens).last_hidden_state
        if self._pooling == "cls":
            pooled = states[:, 0]
        else:
            mask = tokens["attention_mask"][..., None].to(states.dtype)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, dim=1)


def _load(folder: Path) -> tuple[Any, Any]:
    from safetensors import SafetensorError  # noqa: PLC0415
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - takes seconds, and few runs need it

    source = folder / _transformer_part(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        model, info = AutoModel.from_pretrained(
            source, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as exc:
        raise _invalid(folder, f"cannot be loaded: {exc}") from exc
    # The head on the first token is not used here, and many encoders are stored without one.
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise _invalid(folder, f"lacks the weight {missing[0]}")
    return tokenizer, model.eval()


def _parts(folder: Path) -> list[dict[str, Any]]:
    """Return the parts that sentence-transformers puts together; none for a folder of transformers alone."""
    listed = _json(folder / "modules.json")
    return listed if isinstance(listed, list) else []


def _transformer_part(folder: Path) -> str:
    parts = _parts(folder)
    return str(parts[0].get("path", "")) if parts else ""


def _pooling(folder: Path) -> str:
    parts = _parts(folder)
    if not parts:
        return "mean"
    kinds = [str(part.get("type", "")).rpartition(".")[2] for part in parts]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise _invalid(folder, f"is made of {', '.join(kinds)}; only a transformer with pooling can be used")
    config = _json(folder / str(parts[1].get("path", "")) / "config.json") or {}
    named = config.get("pooling_mode") or [name for name, key in _OLD_POOLING.items() if config.get(key)]
    modes = [named] if isinstance(named, str) else list(named)
    others = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if len(modes) != 1 or modes[0] not in _OLD_POOLING or len(others) > 1:
        raise _invalid(folder, f"is pooled by {config}; only mean and cls can be used")
    return str(modes[0])


def _longest(folder: Path) -> int:
    config = _json(folder / "sentence_bert_config.json") or {}
    return int(config.get("max_seq_length") or _LONGEST)


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise _invalid(path.parent, f"holds a {path.name} that cannot be read: {exc}") from exc


def _invalid(folder: Path, what: str) -> FailedPrecondition:
    return FailedPrecondition(f"the sentence encoder in {folder} {what}.", code="model_folder_invalid")
