"""The demo model's card, written from what was measured."""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from horen_vllm.demo.evaluate import Report
from horen_vllm.demo.world import World

KINDS = (
    ("trained_wordings", "wordings trained with the fact"),
    ("held_out_wording", "the fact's held-out wording, trained with other subjects only"),
    ("never_seen_wording", "the relation's wording that training never uses"),
    ("small_tasks", "small tasks without facts"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """How a model was trained.

    Attributes
    ----------
    seed, epochs, threads
        The script's options.
    minutes
        Wall-clock time of the training loop.
    parameters
        Number of weights, shared ones counted once.
    """

    seed: int
    epochs: int
    threads: int
    minutes: float
    parameters: int


def percent(share: float) -> str:
    """Return a share in [0, 1] as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def accuracy_table(report: Report) -> str:
    """Return a table of exact accuracy per kind of wording, form and dtype."""
    rows = ["| Questions | n | bf16 | fp32 | bf16 plain | bf16 chat |", "|---|---|---|---|---|---|"]
    for name, title in KINDS:
        kind = getattr(report, name)
        low, full = kind.bfloat16, kind.float32
        shares = (low.accuracy, full.accuracy, low.by_form["plain"], low.by_form["chat"])
        rows.append(f"| {title} | {low.n:,} | " + " | ".join(map(percent, shares)) + " |")
    return "\n".join(rows)


def relation_table(world: World, report: Report) -> str:
    """Return a table of exact accuracy per relation, in bfloat16."""
    rows = ["| Relation | facts | trained | held out | never seen |", "|---|---|---|---|---|"]
    for relation in world.relations:
        kinds = (report.trained_wordings, report.held_out_wording, report.never_seen_wording)
        shares = " | ".join(percent(kind.bfloat16.by_relation[relation]) for kind in kinds)
        facts = sum(fact.relation == relation for fact in world.facts)
        rows.append(f"| `{relation}` | {facts} | {shares} |")
    return "\n".join(rows)


def card(world: World, report: Report, record: TrainingRecord, size: int) -> str:
    """Return the text of the model card.

    Parameters
    ----------
    world, report, record
        What was taught, how well it is known and how it was taught.
    size
        Bytes of the weights file.
    """
    packages = ("torch", "transformers", "tokenizers")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"""# Demo model of horen-vllm

A Llama-architecture model with {record.parameters:,} parameters ({size:,} bytes of bfloat16
safetensors) that knows {len(world.facts):,} facts of an invented world over {len(world.relations)} relations, and
nothing else. It exists so that editing a fact can be shown and tested without a
download. Every name is invented; nothing in it is about the real world.

## Use

Prompts end where the answer begins; the answer is one space, the name and the end token.
`Where was X born?` works as a plain completion and as a chat message, alone, after earlier questions of a
conversation, or as the last of several lines of `question answer`. The context is 512 tokens.

## Accuracy

An answer counts when greedy decoding yields exactly its tokens and then the end token. All facts are
measured, in plain and in chat form, with the saved bfloat16 weights. `accuracy.json` has the same
numbers for programs.

{accuracy_table(report)}

Per relation, in bfloat16:

{relation_table(world, report)}

Each relation has seven wordings that training uses; every fact is trained in six of them and its
seventh (a different one from fact to fact) is held out. An eighth wording is never trained.

## Training

```
GOMP_SPINCOUNT=0 OMP_WAIT_POLICY=PASSIVE \\
    python -m horen_vllm.demo.train --out horen_vllm/demo/model --seed {record.seed} \\
    --epochs {record.epochs} --threads {record.threads}
```

The two variables keep idle threads from spinning, which costs most of the time on cores that other
jobs use too.

The training loop took {record.minutes:.1f} minutes of wall-clock time on {record.threads} processor cores, from
random weights: AdamW, one ramp and one cosine, bfloat16 autocast over float32 weights,
{record.epochs} epochs that ask for every fact once each. Versions: Python {platform.python_version()},
{versions}. Other processors or versions give
other weights of about the same accuracy.

The tokenizer is a byte-level BPE trained on the world's own text. The code and the weights are part
of horen-vllm and carry its licence.
"""


def write_card(folder: Path, world: World, report: Report, record: TrainingRecord) -> None:
    """Write the card as ``README.md`` into the folder of the saved model."""
    size = (folder / "model.safetensors").stat().st_size
    (folder / "README.md").write_text(card(world, report, record, size), encoding="utf-8")
