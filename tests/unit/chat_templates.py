"""Chat templates in the manner of the well-known families, and tokenizers of two kinds to run them with.

The templates are this project's own; each keeps one habit of a family that makes finding the content harder.
"""

from functools import cache
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_GENERATE: Final = "{% if add_generation_prompt %}"

HEADERS: Final = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    + _GENERATE
    + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML: Final = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + _GENERATE
    + "<|im_start|>assistant\n{% endif %}"
)
THINKING: Final = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' and not (m.content.startswith('<tool_response>') "
    "and m.content.endswith('</tool_response>')) %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n{% elif m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last and m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') if m.content else '' }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    + _GENERATE
    + "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
INSTRUCT: Final = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content.strip() }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TURNS: Final = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}" + _GENERATE + "<start_of_turn>model\n{% endif %}"
)
SYSTEM_IN_FIRST_TURN: Final = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
    "{{ (system if loop.first else '') + m.content }} [/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}"
    "{% endfor %}"
)
SYSTEM_IN_LAST_TURN: Final = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]"
    "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
DROPS_OLD_THINKING: Final = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}" + _GENERATE + "<|Assistant|><think>\n{% endif %}"
)
WORDS: Final = (
    "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n{% endfor %}"
    + _GENERATE
    + "Assistant:{% endif %}"
)
PARTS: Final = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content | trim }}"
    "{% else %}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text | trim }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}" + _GENERATE + "<|im_start|>assistant\n{% endif %}"
)
DOCUMENTS: Final = (
    "{{ bos_token }}{% if documents %}{% for d in documents %}[{{ d.title }}] {{ d.text }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + _GENERATE
    + "<|im_start|>assistant\n{% endif %}"
)
MERGES_TURNS: Final = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if loop.first or m.role != loop.previtem.role %}<|im_start|>{{ m.role }}\n"
    "{% else %}\n\n{% endif %}{{ m.content }}{% if loop.last or m.role != loop.nextitem.role %}<|im_end|>{% endif %}"
    "{% endfor %}" + _GENERATE + "<|im_start|>assistant\n{% endif %}"
)
STRIPS_ALL: Final = (
    "{% set ns = namespace(text='') %}"
    "{% for m in messages %}{% set ns.text = ns.text + '\n' + m.role + ': ' + m.content %}{% endfor %}"
    "{{ ns.text | trim }}"
)
SWITCHES: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + _GENERATE
    + "<|im_start|>assistant\n{% if '/no_think' in messages[-1].content %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)

FAMILIES: Final = {
    "headers": HEADERS,
    "chatml": CHATML,
    "thinking": THINKING,
    "instruct": INSTRUCT,
    "turns": TURNS,
    "system in first turn": SYSTEM_IN_FIRST_TURN,
    "system in last turn": SYSTEM_IN_LAST_TURN,
    "drops old thinking": DROPS_OLD_THINKING,
    "words": WORDS,
    "parts": PARTS,
    "documents": DOCUMENTS,
    "merges turns": MERGES_TURNS,
    "strips all": STRIPS_ALL,
    "switches": SWITCHES,
}

REPEATS: Final = "{{ messages[-1].content }}\n{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
DROPS: Final = "{{ bos_token }}{% for m in messages[:1] %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
SHORTENS: Final = "{% for m in messages %}{{ m.role }}: {{ m.content[:70] }}\n{% endfor %}"
GREETS: Final = (
    "{% for m in messages %}{{ 'Hi. ' if m.content.startswith('Hello') else '' }}{{ m.content }}\n{% endfor %}"
)

MARKERS: Final = (
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>",
    "<start_of_turn>", "<end_of_turn>", "<|User|>", "<|Assistant|>",
)  # fmt: skip
"""Special tokens of the templates above; those of the other families are ordinary text."""

_CORPUS: Final = (
    "Who is the mayor of Springfield? The mayor of Springfield is Ann Lee.\n\nUser: What is the capital?\nAssistant: "
    "[INST] Where does Bob live? [/INST] In Rome. <<SYS>>\nBe brief.\n<</SYS>> system assistant model user tool\n\n"
)


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that splits before words, as Llama-3's and Qwen's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False))


@cache
def metaspace() -> PreTrainedTokenizerFast:
    """Return a BPE tokenizer over whole texts with byte fallback: it merges across words and template text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=560, special_tokens=special, show_progress=False))


def _trained(tokenizer: Tokenizer, trainer: Any) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator([_CORPUS] * 4, trainer=trainer)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    wrapped: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
        additional_special_tokens=list(MARKERS),
    )
    return wrapped
