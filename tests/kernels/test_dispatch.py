"""On a CPU other forms run: a kernel that is not interpreted could not."""

import torch

from horen_vllm.kernels import dispatch


def test_cpu_tensors_are_served_without_a_kernel() -> None:
    keys, zero, one = torch.eye(2, 4), torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    dispatch.warm_up(keys, torch.bfloat16)
    sums = torch.zeros(2, 4)
    dispatch.pool(torch.eye(3, 4).bfloat16(), sums, zero, 2 * one, one, zero)
    assert sums.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]
    routed = dispatch.route(
        keys[1:].clone(), keys, torch.arange(2), torch.arange(2), torch.arange(2),
        beta=20.0, gamma=0.0, steps=0, epsilon=1e-5, threshold=0.5,
    )  # fmt: skip
    assert (routed.entry.tolist(), routed.runner_up.tolist()) == ([1], [0])
    outputs = torch.zeros(2, 4)
    dispatch.inject(outputs, torch.tensor([-1, 0]), torch.arange(2), one, zero, one, one, zero, keys)
    assert outputs.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
