"""How often this process has compiled and captured: an update must never cause either."""

from typing import Any


def compilation_counts() -> dict[str, int]:
    """Return the number of graphs that were traced and compiled, and of CUDA graphs that were captured, so far."""
    from torch._dynamo.utils import counters  # noqa: PLC0415 - vLLM is imported once it calls us
    from vllm.compilation.counter import compilation_counter  # noqa: PLC0415

    counter: Any = compilation_counter
    return {
        "compilations": int(counters["stats"]["unique_graphs"]) + int(counter.num_backend_compilations),
        "captures": int(counter.num_cudagraph_captured),
    }
