"""Which architectures can be edited, and where."""

import pytest

from horen_vllm.core.architectures import SUPPORTED_ARCHITECTURES, check_architecture, check_site, default_site
from horen_vllm.errors import FailedPrecondition


def test_the_papers_models_have_the_papers_sites_and_others_the_third_layer_from_the_end() -> None:
    llama, gpt_oss = "LlamaForCausalLM", "GptOssForCausalLM"
    assert default_site("meta-llama/Llama-3.1-8B-Instruct", llama, 32) == "model.layers.29.mlp.down_proj"
    assert default_site("Qwen/Qwen2.5-7B-Instruct", "Qwen2ForCausalLM", 28) == "model.layers.24.mlp.down_proj"
    assert default_site("openai/gpt-oss-20b", gpt_oss, 24) == "model.layers.20.self_attn.o_proj"
    assert default_site("/models/mine/", llama, 6) == "model.layers.3.mlp.down_proj"
    assert default_site("/models/mine", gpt_oss, 12) == "model.layers.9.self_attn.o_proj"
    assert default_site("/models/tiny", llama, 2) == "model.layers.0.mlp.down_proj"


def test_an_unknown_architecture_is_refused_by_name() -> None:
    for name in SUPPORTED_ARCHITECTURES:
        check_architecture(name)
    with pytest.raises(FailedPrecondition, match="BertModel") as caught:
        check_architecture("BertModel")
    assert caught.value.code == "unsupported_architecture"


def test_every_default_site_is_one() -> None:
    for architecture in SUPPORTED_ARCHITECTURES:
        check_site(default_site("/models/mine", architecture, 4), architecture, 4)
        check_site("model.layers.0.self_attn.o_proj", architecture, 1)


@pytest.mark.parametrize(
    ("site", "architecture", "code"),
    [
        ("model.layers.4.mlp.down_proj", "LlamaForCausalLM", "unknown_site"),
        ("model.layers.3.mlp.gate_proj", "LlamaForCausalLM", "unsupported_site"),
        ("model.layers.-1.mlp.down_proj", "LlamaForCausalLM", "unsupported_site"),
        ("lm_head", "LlamaForCausalLM", "unsupported_site"),
        ("model.layers.3.mlp.down_proj", "GptOssForCausalLM", "unsupported_site"),
    ],
)
def test_what_is_no_edit_site_is_refused(site: str, architecture: str, code: str) -> None:
    with pytest.raises(FailedPrecondition, match=site) as caught:
        check_site(site, architecture, 4)
    assert caught.value.code == code
