"""Two processes that share a model over gloo, as torchrun would start them, each forked from the test's process."""

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from horen_vllm.editor.loading.ranks import Ranks, join_ranks

Work = Callable[[Ranks], Any]


def on_two_ranks(folder: Path, work: Work) -> list[Any]:
    """Do something on two ranks and return what each returned, or its exit code; their files go to `folder`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    results = [folder / f"rank{rank}" for rank in range(2)]
    processes = [
        multiprocessing.get_context("fork").Process(target=_be_rank, args=(rank, port, work, result))
        for rank, result in enumerate(results)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        process.kill()
        process.join()
    return [
        pickle.loads(result.read_bytes()) if process.exitcode == 0 else process.exitcode
        for process, result in zip(processes, results, strict=True)
    ]


def _be_rank(rank: int, port: int, work: Work, result: Path) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks, _ = join_ranks("cpu")
    result.write_bytes(pickle.dumps(work(ranks)))
