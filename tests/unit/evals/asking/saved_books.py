"""Saved codebooks of the demo model whose entries say their targets, made without training.

The site is the last layer's, whose output is all but the logits: what makes one of them large can be worked out.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from horen_vllm.artifact import EntryArtifact, EntryManifest, encode_entry
from horen_vllm.artifacts.folder import ArtifactFolder
from horen_vllm.core.admission import normalise_prompt
from horen_vllm.core.presets import MethodParameters, preset_parameters
from horen_vllm.core.query import query_window
from horen_vllm.core.routing import unit_queries
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.evals.asking.offline_prompts import Prompt, PromptMaker
from horen_vllm.evals.records import Message, Protocol, Question, QuestionKind
from horen_vllm.fingerprint import model_fingerprint
from horen_vllm.ids import CodebookName
from horen_vllm.static import StaticDescription, StaticEntry, write_static

SITE: Final = "model.layers.5.mlp.down_proj"
REVISION: Final = 3
_LOUD: Final = 10_000.0


def save_book(folder: Path, name: str, facts: Mapping[str, str], *, threshold: float = 0.99) -> Path:
    """Write a codebook under ``folder/static``, as ``horen codebook save`` writes one, and return that folder.

    Its edits are called ``e0``, ``e1`` and so on.

    Parameters
    ----------
    facts
        Prompt to target, for plain prompts and for chats.
    """
    model, tokenizer = _demo()
    parameters = preset_parameters("cosine", "demo", threshold)
    artifacts, entries = ArtifactFolder(folder / "artifacts"), []
    for number, (prompt, target) in enumerate(facts.items()):
        entry = _entry(f"e{number}", prompt, target, model, tokenizer, parameters)
        digest = artifacts.put(encode_entry(entry))
        entries.append(StaticEntry(edit_id=f"e{number}", sequence=number + 1, artifact=digest))
    described = StaticDescription(
        name=CodebookName.parse(f"tenants/default/codebooks/{name}"),
        model="demo",
        fingerprint=model_fingerprint(demo_model_dir(), SITE),
        site=SITE,
        revision=REVISION,
        parameters=parameters,
        entries=tuple(entries),
    )
    write_static(folder / "static", described, artifacts)
    return folder / "static"


@cache
def _demo() -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(demo_model_dir(), dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(demo_model_dir())


def _entry(
    edit_id: str, prompt: str, target: str, model: Any, tokenizer: Any, parameters: MethodParameters
) -> EntryArtifact:
    maker = PromptMaker(tokenizer)
    forms = [maker.prompt(_question(prompt, chat=chat), parameters.span) for chat in (False, True)]
    said = [*tokenizer.encode(f" {target}", add_special_tokens=False), tokenizer.eos_token_id]
    manifest = EntryManifest(
        edit_id=edit_id,
        fingerprint=model_fingerprint(demo_model_dir(), SITE),
        site=SITE,
        value_mode=parameters.value_mode,
        span=len(said),
        chunk=1,
        target_ids=tuple(said[:-1]),
        normalised_prompt=normalise_prompt(prompt),
        trained_end=True,
        loss=0.0,
        steps=0,
    )
    outputs_VD = (model.lm_head.weight * model.model.norm.weight).detach()
    values = _LOUD * torch.nn.functional.normalize(torch.linalg.pinv(outputs_VD).T[said], dim=-1)
    return EntryArtifact(
        keys=torch.cat([_key(model, form, parameters) for form in forms]), values=values, manifest=manifest
    )


def _key(model: Any, form: Prompt, parameters: MethodParameters) -> torch.Tensor:
    ids, (start, stop) = form
    inputs: list[torch.Tensor] = []
    hook = dict(model.named_modules())[SITE].register_forward_pre_hook(lambda _module, args: inputs.append(args[0][0]))
    with torch.inference_mode():
        model(torch.tensor([ids]))
    hook.remove()
    first, end = query_window(stop - start, parameters.window_ratio)
    rows = inputs[0][start + first : start + end].clone()
    return unit_queries(rows.sum(0, keepdim=True), torch.tensor([len(rows)]))


def _question(prompt: str, *, chat: bool) -> Question:
    return Question(
        question_id="q",
        arm="base",
        model="m",
        checkpoint=0,
        protocol=Protocol.STRICT,
        kind=QuestionKind.EDIT,
        prompt=None if chat else prompt,
        messages=(Message(role="user", content=prompt),) if chat else (),
        max_tokens=1,
    )
