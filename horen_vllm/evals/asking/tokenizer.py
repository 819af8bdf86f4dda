"""The tokenizer of a model folder, and whether a server has the same one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from horen_vllm.errors import FailedPrecondition
from horen_vllm.evals.asking.answerer import Answerer

_FILE: Final = "tokenizer.json"
_PROBES: Final = (
    "The capital of France is",
    " two  spaces, a\ttab\nand\r\nlines\n\n",
    "1234567890 3.14 -7 1e-9 12,345",
    "don't can't it's THE Quick bRoWn_fox-jump",
    "na\u00efve caf\u00e9 Stra\u00dfe \u0141\u00f3d\u017a \u041c\u043e\u0441\u043a\u0432\u0430",
    "\u4e1c\u4eac \u3072\u3089\u304c\u306a \ud55c\uad6d\uc5b4",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940",
    "e\u0301 \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2014 \u201cquoted\u201d \u2026 \u221e",
    "def f(x):\n    return {'a': x[0]} # <|x|> </s> [INST]",
)
"""Texts on which tokenizers of different models part: white space, digits, case, scripts, marks, code."""


class LocalTokenizer:
    """The tokenizer of a model folder; any thread may call.

    Parameters
    ----------
    folder
        A folder with a ``tokenizer.json``.

    Raises
    ------
    FailedPrecondition
        ``model_folder_invalid``.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / _FILE
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as exc:
            # The package has no class of its own for it.
            message = f"the tokenizer in {path} cannot be read: {exc}."
            raise FailedPrecondition(message, code="model_folder_invalid") from exc
        # A file may say that texts are padded or cut, which is for training.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def token_ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of `text` without special tokens."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


def check_tokenizer(answerer: Answerer, folder: Path, texts: Iterable[str] = ()) -> LocalTokenizer:
    """Return the tokenizer of a model folder once a server was seen to have the same.

    Both tokenise texts that tell tokenizers apart, and `texts`: a few of the data set.

    Raises
    ------
    FailedPrecondition
        ``tokenizer_differs``, naming the text; ``model_folder_invalid``.
    HorenError
        As `Answerer.token_ids`.
    """
    local = LocalTokenizer(folder)
    for text in (*_PROBES, *texts):
        here, there = local.token_ids(text), answerer.token_ids(text)
        if here != there:
            message = (
                f"the server's tokenizer is not the one in {folder}: {text[:80]!r} has {len(there)} tokens there and "
                f"{len(here)} here, the first difference at token {_first_difference(here, there)}."
            )
            raise FailedPrecondition(message, code="tokenizer_differs")
    return local


def _first_difference(here: tuple[int, ...], there: tuple[int, ...]) -> int:
    pairs = enumerate(zip(here, there, strict=False))
    return next((at for at, (mine, theirs) in pairs if mine != theirs), min(len(here), len(there)))
