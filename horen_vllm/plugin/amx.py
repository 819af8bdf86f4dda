"""AMX tiles of a CPU: Linux gives them to a process only once it has asked for them.

Why: vLLM 0.32 takes its AMX attention for bfloat16 wherever the CPU has tiles, and leaves the asking to whichever other
library happens to run first; where none has, the worker dies of an illegal instruction. Remove when: vLLM asks itself.
"""

import torch


def request_tiles() -> None:
    """Ask for the tiles, if this CPU and this torch know them; harmless anywhere else, and when called again."""
    ask = getattr(torch.cpu, "_init_amx", None)
    if ask is not None:
        ask()
