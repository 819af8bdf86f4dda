"""The packages of the extra ``eval``, imported when first used: most commands never need them."""

from functools import cache
from importlib import import_module
from typing import Any

from horen_vllm.errors import FailedPrecondition


def package(name: str) -> Any:
    """Return the module `name`.

    Raises
    ------
    FailedPrecondition
        ``evaluation_package_missing``, when it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as exc:
        raise FailedPrecondition(
            f"the evaluation needs {name.partition('.')[0]}: install horen-vllm[eval].",
            code="evaluation_package_missing",
        ) from exc


def words(text: str) -> list[str]:
    """Return the words and punctuation marks of `text` by NLTK's Treebank-style tokenizer, which needs no data."""
    return [str(word) for word in _tokenizer().tokenize(text)]


@cache
def _tokenizer() -> Any:
    return package("nltk.tokenize").NLTKWordTokenizer()
