"""Sentence similarity by a tiny encoder that the test makes, against the same numbers computed one text at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from horen_vllm.errors import FailedPrecondition
from horen_vllm.evals.metrics.semantic import SentenceEncoder

TEXTS = ["the capital of france is paris", "a cat sat on the mat", "paris", "the cat slept all day and all day"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(" ".join(TEXTS).split())]


def transformer_folder(folder: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=12,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
        initializer_range=0.5,
    )
    encoder: Any = BertModel
    encoder(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def sentence_folder(folder: Path, pooling: dict[str, Any], *, longest: int = 12) -> Path:
    transformer_folder(folder)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16} | pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    return folder


def alone(folder: Path, text: str, pooling: str, longest: int) -> Any:
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    model: Any = BertModel.from_pretrained(folder, add_pooling_layer=False)
    model.eval()
    ids = tokenizer(text).input_ids
    ids = ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return states.mean(dim=0) if pooling == "mean" else states[0]


@pytest.mark.parametrize(
    ("named", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
@pytest.mark.parametrize("longest", [6, 12])
def test_texts_in_a_batch_are_as_alike_as_one_at_a_time(
    tmp_path: Path, named: dict[str, Any], pooling: str, longest: int
) -> None:
    folder = sentence_folder(tmp_path, named, longest=longest)
    pairs = [(one, other) for one in TEXTS for other in TEXTS]
    found = SentenceEncoder(folder).similarities(pairs)
    rows = {text: alone(folder, text, pooling, longest) for text in TEXTS}
    expected = [torch.cosine_similarity(rows[one], rows[other], dim=0).item() for one, other in pairs]
    assert found == pytest.approx(expected, abs=1e-5)
    assert min(found) < 0.99


def test_a_folder_of_transformers_alone_is_pooled_by_the_mean(tmp_path: Path) -> None:
    encoder = SentenceEncoder(transformer_folder(tmp_path))
    one, other = (alone(tmp_path, text, "mean", 12) for text in TEXTS[:2])
    assert encoder(TEXTS[0], TEXTS[1]) == pytest.approx(torch.cosine_similarity(one, other, dim=0).item(), abs=1e-5)
    assert encoder(TEXTS[3], TEXTS[3]) == pytest.approx(1.0)


def test_the_order_of_pairs_and_their_company_change_nothing(tmp_path: Path) -> None:
    encoder = SentenceEncoder(transformer_folder(tmp_path))
    pairs = [(one, other) for one in TEXTS for other in TEXTS] * 5
    forward, backward = encoder.similarities(pairs), encoder.similarities(pairs[::-1])
    assert forward == pytest.approx(backward[::-1], abs=1e-6)
    assert forward[:16] == pytest.approx([encoder(*pair) for pair in pairs[:16]], abs=1e-5)
    assert encoder.similarities([]) == []


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
        {"pooling_mode": "lasttoken"},
        {"pooling_mode": ["mean", "cls"]},
    ],
)
def test_another_pooling_is_refused(tmp_path: Path, pooling: dict[str, Any]) -> None:
    with pytest.raises(FailedPrecondition, match="only mean and cls") as refused:
        SentenceEncoder(sentence_folder(tmp_path, pooling))
    assert refused.value.code == "model_folder_invalid"


def test_other_parts_are_refused(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, {"pooling_mode": "mean"})
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(FailedPrecondition, match="Transformer, Pooling, Dense"):
        SentenceEncoder(folder)


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot be loaded"):
        SentenceEncoder(tmp_path / "none")
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(FailedPrecondition, match=r"modules\.json that cannot be read"):
        SentenceEncoder(tmp_path)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    transformer_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(FailedPrecondition, match=r"lacks the weight encoder\.layer\.2"):
        SentenceEncoder(tmp_path)
