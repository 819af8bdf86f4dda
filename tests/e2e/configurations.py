"""Every engine configuration that the plugin is proved on, and how many requests each is given."""

import shutil
from dataclasses import dataclass, field
from typing import Any

# Blocks for about five requests: with eight running, some lose theirs in the middle of an answer.
FEW_BLOCKS: dict[str, Any] = {"num_gpu_blocks_override": 17}
EAGER: dict[str, Any] = {"enforce_eager": True, "enable_prefix_caching": True, "max_num_batched_tokens": 64}
# With layers of both kinds a request holds blocks twice; these are for about as many requests.
FEW_HYBRID_BLOCKS: dict[str, Any] = {"num_gpu_blocks_override": 30}
COMPILED: dict[str, Any] = {**EAGER, "enforce_eager": False}
NO_FUSIONS = {
    "fuse_norm_quant": False,
    "fuse_act_quant": False,
    "fuse_attn_quant": False,
    "fuse_allreduce_rms": False,
    "eliminate_noops": True,
}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
DRAFT = {"method": "draft_model", "model": "{model}", "num_speculative_tokens": 3}


@dataclass(frozen=True)
class Configuration:
    """One engine configuration.

    Attributes
    ----------
    options
        Arguments of the engine; "{model}" stands for the model's folder.
    requests
        How many the matrix sends.
    v2
        Whether the V2 runner serves, under Triton's interpreter.
    backend_split, async_scheduling
        See ``cpu_platform.insist``.
    parallel_share
        Share of requests with n = 2; vLLM's rejection sampler takes none of the parameters that make them greedy.
    first_scores
        Whether scores before refinement decide where they are certain.
    tiny_model
        Random model that is served instead of the demo model, a name of ``tiny_model.MAKERS``; None: the demo model.
    expects
        Counters of the report that must be positive: what the configuration is there for must have happened.
    """

    options: dict[str, Any] = field(default_factory=dict)
    requests: int = 90
    v2: bool = False
    backend_split: bool = False
    async_scheduling: bool = False
    parallel_share: float = 0.12
    first_scores: bool = False
    tiny_model: str | None = None
    expects: tuple[str, ...] = ()

    def claims(self) -> dict[str, bool]:
        """Return what the engine must say of itself."""
        return {"v2": self.v2, "async_scheduling": self.async_scheduling, "backend_split": self.backend_split}

    @property
    def needs_compiler(self) -> bool:
        """Whether it needs a C++ compiler that this machine lacks."""
        return not self.options.get("enforce_eager", False) and shutil.which("g++") is None


CONFIGURATIONS: dict[str, Configuration] = {
    "v1-preemption": Configuration(
        {**EAGER, **FEW_BLOCKS, "max_num_batched_tokens": 24}, expects=("preemptions", "flips_during_preemption")
    ),
    "v1-odd-chunks": Configuration({**EAGER, "max_num_batched_tokens": 9}),
    "v1-no-cache": Configuration({**EAGER, "enable_prefix_caching": False}),
    "v1-first-scores": Configuration(EAGER, first_scores=True, expects=("first_scores",)),
    "v1-async": Configuration({**EAGER, **FEW_BLOCKS}, async_scheduling=True, expects=("preemptions",)),
    "v1-compile": Configuration(COMPILED),
    "v1-backend-split": Configuration(
        {**COMPILED, "compilation_config": {"pass_config": NO_FUSIONS}}, backend_split=True
    ),
    "v1-ngram": Configuration({**EAGER, "speculative_config": NGRAM}, parallel_share=0.0, expects=("accepted_drafts",)),
    "v1-draft-async": Configuration(
        {**EAGER, **FEW_BLOCKS, "speculative_config": DRAFT},
        async_scheduling=True,
        parallel_share=0.0,
        expects=("accepted_drafts", "preemptions"),
    ),
    "v1-tensor-parallel": Configuration({**EAGER, **FEW_BLOCKS, "tensor_parallel_size": 2}, tiny_model="llama"),
    "v1-lora-enabled": Configuration({**EAGER, "enable_lora": True, "max_lora_rank": 8}),
    "v1-gpt-oss": Configuration(
        {**EAGER, **FEW_HYBRID_BLOCKS}, async_scheduling=True, tiny_model="gpt-oss", expects=("preemptions",)
    ),
    "v2": Configuration(EAGER, v2=True),
    "v2-preemption-async": Configuration(
        {**EAGER, **FEW_BLOCKS}, v2=True, async_scheduling=True, expects=("preemptions",)
    ),
    "v2-gpt-oss": Configuration({**EAGER, **FEW_HYBRID_BLOCKS}, requests=40, v2=True, tiny_model="gpt-oss"),
    "v2-tensor-parallel": Configuration(
        {**EAGER, **FEW_BLOCKS, "tensor_parallel_size": 2},
        requests=40,
        v2=True,
        async_scheduling=True,
        tiny_model="llama",
        expects=("preemptions",),
    ),
    "v2-draft-async": Configuration(
        {**EAGER, **FEW_BLOCKS, "speculative_config": DRAFT},
        v2=True,
        async_scheduling=True,
        parallel_share=0.0,
        expects=("accepted_drafts", "preemptions"),
    ),
}
