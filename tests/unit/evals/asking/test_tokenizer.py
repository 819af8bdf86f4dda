"""The tokenizer check: the same one passes, any other is named with a text on which it parts."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.errors import FailedPrecondition
from horen_vllm.evals.asking.tokenizer import LocalTokenizer, check_tokenizer
from tests.unit.evals.asking.test_running import Echo


class Served(Echo):
    """A server with a tokenizer of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._tokenizer = LocalTokenizer(folder)

    def token_ids(self, text: str) -> tuple[int, ...]:
        return self._tokenizer.token_ids(text)


def save_bytes(folder: Path, *merges: tuple[str, str], cut: bool = False) -> Path:
    """Write a tokenizer of single bytes, and of some of them joined."""
    folder.mkdir()
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    made = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if cut:
        made.enable_truncation(4)
        made.enable_padding(length=64)
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_the_same_tokenizer_passes_and_serves_for_the_server(tmp_path: Path) -> None:
    folder = save_bytes(tmp_path / "model")
    local = check_tokenizer(Served(folder), folder, [" Paris"])
    assert local.token_ids(" Paris") == Served(folder).token_ids(" Paris")
    assert len(local.token_ids(" Paris")) == 6


def test_another_tokenizer_is_refused_and_the_text_named(tmp_path: Path) -> None:
    here, there = save_bytes(tmp_path / "here"), save_bytes(tmp_path / "there", ("T", "h"))
    with pytest.raises(FailedPrecondition, match="'The capital") as caught:
        check_tokenizer(Served(there), here)
    assert caught.value.code == "tokenizer_differs"
    assert "first difference at token 0" in caught.value.message


def test_a_difference_that_only_the_data_shows_is_found(tmp_path: Path) -> None:
    here, there = save_bytes(tmp_path / "here"), save_bytes(tmp_path / "there", ("Q", "Z"))
    assert check_tokenizer(Served(there), here)
    with pytest.raises(
        FailedPrecondition, match="'aQZ' has 2 tokens there and 3 here, the first difference at token 1"
    ):
        check_tokenizer(Served(there), here, ["a", "aQZ"])


def test_texts_are_neither_cut_nor_padded(tmp_path: Path) -> None:
    assert len(LocalTokenizer(save_bytes(tmp_path / "model", cut=True)).token_ids("abcdefgh")) == 8


def test_it_reads_what_transformers_reads() -> None:
    from transformers import AutoTokenizer

    folder = demo_model_dir()
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in ("Where was Mira Lund born?", " New Haven", "", "  \n"):
        assert LocalTokenizer(folder).token_ids(text) == tuple(theirs.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(FailedPrecondition) as caught:
        LocalTokenizer(tmp_path)
    assert caught.value.code == "model_folder_invalid"
