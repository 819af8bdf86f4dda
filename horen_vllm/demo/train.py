"""Train the demo model from nothing: ``python -m horen_vllm.demo.train --out DIR``."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from horen_vllm.demo.card import TrainingRecord, accuracy_table, write_card
from horen_vllm.demo.evaluate import measure, write_accuracy
from horen_vllm.demo.examples import Example, ExampleMaker, batches
from horen_vllm.demo.tokenizer import CONTEXT, train_tokenizer
from horen_vllm.demo.world import build_world

LEARNING_RATE = 3e-3
WARM_UP = 0.04
BATCH_TOKENS = 1536
# Batches are cut from this many epochs at once, so that like lengths meet without padding.
EPOCHS_AT_ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Padded examples.

    Attributes
    ----------
    ids
        Token ids, int64 ``[rows, length]``, padded on the right with 0.
    weights
        Weight of each token as a target, float32 ``[rows, length]``, 0 on padding.
    """

    ids: torch.Tensor
    weights: torch.Tensor


def model_config(vocabulary: int) -> LlamaConfig:
    """Return the shape of the demo model: six layers of width 192, three heads of size 64."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def padded(examples: Sequence[Example]) -> Batch:
    """Return the examples as one rectangle."""
    length = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    weights = torch.zeros(len(examples), length)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        weights[row, : len(example.ids)] = torch.tensor(example.weights)
    return Batch(ids=ids, weights=weights)


def weighted_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the mean negative log-likelihood of the next tokens, weighted, as a scalar in nats.

    Padding stands on the right, where causal attention keeps it from every real token.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=batch.ids[:, :-1]).logits
    targets, weights = batch.ids[:, 1:].reshape(-1), batch.weights[:, 1:].reshape(-1)
    # Rows of weight 0 cost a softmax over the vocabulary and change nothing.
    counted = weights > 0
    losses = F.cross_entropy(logits.flatten(0, 1)[counted].float(), targets[counted], reduction="none")
    return (losses * weights[counted]).sum() / weights.sum()


def learning_rate(progress: float) -> float:
    """Return the share of the peak rate at a point of training in [0, 1]: a ramp, then a cosine."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def optimizer_of(model: LlamaForCausalLM) -> torch.optim.AdamW:
    """Return AdamW that decays matrices and leaves the norms' gains alone."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))


def step(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, batch: Batch, rate: float) -> float:
    """Take one step at this share of the peak learning rate and return the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * rate
    loss = weighted_loss(model, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def fit(model: LlamaForCausalLM, maker: ExampleMaker, epochs: int, seed: int, console: Console) -> None:
    """Train the model in place on so many epochs (each asks for every fact once), with reports."""
    optimizer, generator = optimizer_of(model), np.random.default_rng(seed)
    started = time.monotonic()
    for done in range(0, epochs, EPOCHS_AT_ONCE):
        examples = [example for _ in range(EPOCHS_AT_ONCE) for example in maker.epoch()]
        rounds = batches(examples, BATCH_TOKENS, generator)
        losses = []
        for index, chosen in enumerate(rounds):
            rate = learning_rate((done + EPOCHS_AT_ONCE * index / len(rounds)) / epochs)
            losses.append(step(model, optimizer, padded(chosen), rate))
        minutes = (time.monotonic() - started) / 60
        asked = done + EPOCHS_AT_ONCE
        console.print(f"epoch {asked}/{epochs}  loss {np.mean(losses):.4f}  {minutes:.1f} min")


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model as bfloat16 safetensors, with its configuration and tokenizer."""
    model.to(torch.bfloat16)  # type: ignore[arg-type]  # its stub forgets dtypes
    model.generation_config.do_sample = False
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the model, its card and its accuracy to.")],
    seed: Annotated[int, typer.Option(help="Seed of the world, the weights and the order.")] = 7,
    epochs: Annotated[int, typer.Option(help="How often every fact is asked for; even.")] = 220,
    threads: Annotated[int, typer.Option(help="Processor cores to use.")] = 2,
) -> None:
    """Build the world, train its tokenizer and model, measure both and write everything."""
    console = Console()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    world = build_world(seed)
    tokenizer = train_tokenizer(world)
    model = LlamaForCausalLM(model_config(len(tokenizer)))  # type: ignore[no-untyped-call]
    started = time.monotonic()
    fit(model, ExampleMaker(world, tokenizer, seed), epochs, seed, console)
    minutes = (time.monotonic() - started) / 60
    save(model, tokenizer, out)
    report = measure(out, world)
    write_accuracy(report, out)
    record = TrainingRecord(
        seed=seed, epochs=epochs, threads=threads, minutes=minutes, parameters=model.num_parameters()
    )
    write_card(out, world, report, record)
    console.print(accuracy_table(report))


if __name__ == "__main__":
    typer.run(main)
