"""The demo model's own tokenizer: byte-level BPE trained on the world's text, with a chat template."""

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from horen_vllm.demo.chatter import tasks
from horen_vllm.demo.names import name_pools
from horen_vllm.demo.world import World

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
USER, ASSISTANT, SYSTEM = "<|user|>", "<|assistant|>", "<|system|>"
# Their positions are their ids: padding is 0, the beginning 1 and the end 2.
SPECIAL_TOKENS = (PAD, BOS, EOS, USER, ASSISTANT, SYSTEM)
VOCABULARY = 1536
CONTEXT = 512

# An answer stands after exactly one space in both forms, so its ids do not depend on the form.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}<|system|>{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% else %}<|assistant|> {{ message['content'] }}{{ eos_token }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def corpus(world: World) -> Iterator[str]:
    """Yield the text that the merges are learned from: every wording and, once each, every name.

    Names stand once so that most of them stay several tokens long; the wordings stand several times,
    since each of their words is part of very many prompts.
    """
    for relation in world.relations.values():
        for wording in (*relation.wordings, relation.unseen_wording):
            yield from (wording.format(subject="") for _ in range(4))
    for pool in name_pools(world.seed).values():
        yield from (f" {name}" for name in pool)
    for task in tasks(world.seed, 300):
        yield f"{task.prompt} {task.answer}"


def train_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Return the tokenizer of this world, the same for the same world.

    Returns
    -------
    PreTrainedTokenizerFast
        Puts the beginning token in front when it adds special tokens; splits before each space, so
        a prompt and `` answer`` may be encoded apart and joined.
    """
    tokenizer = Tokenizer(models.BPE())
    # Digits are split one by one so that sums and counts have few tokens to learn.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(world), trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, SPECIAL_TOKENS.index(BOS))],
    )
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
