"""Stored weights: what the headers of a model folder's safetensors files say, and whether they fit into memory.

Reads headers only; does not load a model.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil
import torch

from horen_vllm.errors import FailedPrecondition

_INDEX: Final = "model.safetensors.index.json"
_FLOATS: Final = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that the loader converts to the chosen one; what is stored as another one is packed or an index."""
_PACKED: Final = "_blocks"
"""Ending of MXFP4 weights: two values a byte, which are unpacked where there are no kernels for them."""
_CGROUP: Final = Path("/sys/fs/cgroup")
_GIB: Final = 1 << 30

# Loading itself was measured to take less than 1 % more than the converted weights. The rest is for what comes after:
# allocator slack grows with the weights, the passes over one edit's contexts do not.
_MARGIN_SHARE: Final = 0.05
_MARGIN_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a file keeps it."""

    name: str
    dtype: str
    """As safetensors names it: F32, BF16, U8 ..."""
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def plain(self) -> bool:
        """Whether it is an ordinary floating-point tensor, not a quantised one."""
        return self.dtype in _FLOATS

    def loaded_bytes(self, dtype: torch.dtype, *, unpack: bool) -> int:
        """Return what it takes in a model of `dtype`."""
        if self.plain:
            return math.prod(self.shape) * dtype.itemsize
        return self.num_bytes * 2 * dtype.itemsize if unpack and self.name.endswith(_PACKED) else self.num_bytes

    def shard(self, ranks: int) -> "StoredTensor":
        """Return the part of it that one of so many ranks holds."""
        return replace(self, shape=(-(-self.shape[0] // ranks), *self.shape[1:]), num_bytes=-(-self.num_bytes // ranks))

    def converted(self, dtype: torch.dtype) -> bool:
        """Whether loading makes a copy; else it stays mapped from the file."""
        return _FLOATS.get(self.dtype) != dtype


def stored_tensors(folder: str | Path) -> dict[str, StoredTensor]:
    """Return every tensor of a model folder by its name.

    Raises
    ------
    FailedPrecondition
        ``model_folder_invalid``, when a file is missing or has no readable header.
    """
    root = Path(folder)
    try:
        return {tensor.name: tensor for path in _files(root) for tensor in _header(path)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        message = f"the weights in {root} cannot be read: {type(exc).__name__}: {exc}."
        raise FailedPrecondition(message, code="model_folder_invalid") from exc


def check_fits(tensors: Iterable[StoredTensor], dtype: torch.dtype, device: str, hosted: int = 1) -> None:
    """Refuse weights that do not fit into the memory that is left now.

    A model for another device is loaded through the host's memory: there only what is converted takes some.

    Parameters
    ----------
    tensors
        What this process will hold.
    dtype
        Of the loaded model.
    device
        Where it will be.
    hosted
        Processes on this host that load as much each, at the same time.

    Raises
    ------
    FailedPrecondition
        ``model_too_large``, with the numbers.
    """
    target = torch.device(device)
    unpack = target.type == "cpu"
    sizes = [(tensor.loaded_bytes(dtype, unpack=unpack), tensor.converted(dtype)) for tensor in tensors]
    whole = sum(size for size, _ in sizes)
    needs = {target: whole if target.type != "cpu" else whole * hosted}
    if target.type != "cpu":
        needs[torch.device("cpu")] = sum(size for size, converted in sizes if converted) * hosted
    for place, need in needs.items():
        room = available_bytes(place)
        if room is not None and need and _with_margin(need) > room:
            message = (
                f"the model does not fit into the memory of {place}: its weights take {need / _GIB:.2f} GiB in "
                f"{str(dtype).removeprefix('torch.')} and {_with_margin(need) / _GIB:.2f} GiB with the work on them, "
                f"{room / _GIB:.2f} GiB are left."
            )
            raise FailedPrecondition(message, code="model_too_large")


def available_bytes(device: torch.device, cgroup: Path = _CGROUP) -> int | None:
    """Return the bytes that a process can still get on `device`; None where nobody can say.

    Parameters
    ----------
    device
        CUDA or the host.
    cgroup
        Folder of the (version 2) control group that may bound the host's memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    return int(min(psutil.virtual_memory().available, _cgroup_room(cgroup)))


def _cgroup_room(cgroup: Path) -> float:
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except OSError:
        return math.inf
    if limit == "max":
        return math.inf
    # File pages are given back when memory runs short.
    return int(limit) - int(used) + int(counts["active_file"]) + int(counts["inactive_file"])


def _with_margin(num_bytes: int) -> int:
    return int(num_bytes * (1 + _MARGIN_SHARE)) + _MARGIN_BYTES


def _files(root: Path) -> list[Path]:
    if not (root / _INDEX).exists():
        return [root / "model.safetensors"]
    return [root / str(name) for name in sorted(set(json.loads((root / _INDEX).read_bytes())["weight_map"].values()))]


def _header(path: Path) -> list[StoredTensor]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            message = f"{path.name} ends inside its header"
            raise ValueError(message)
        header = json.loads(file.read(length))
    return [
        StoredTensor(name, entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    ]
