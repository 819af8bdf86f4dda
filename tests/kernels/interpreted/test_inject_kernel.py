"""The inject kernel: which rows it writes and, bit by bit, what; no other row changes, not even its NaNs."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from horen_vllm.core.values import REPLACED
from horen_vllm.kernels.inject import inject_torch, inject_triton

INTEGER = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
FORMS = (inject_triton, inject_torch)
SLOTS, ROWS_OF_VALUES = 4, 40


@dataclass
class Step:
    outputs: torch.Tensor
    token_slot: torch.Tensor
    positions: torch.Tensor
    answer_start: torch.Tensor
    table: torch.Tensor
    values: torch.Tensor

    def run(self, form: object) -> torch.Tensor:
        outputs = self.outputs.clone()
        columns = self.table.unbind(dim=1)
        assert callable(form)
        form(outputs, self.token_slot, self.positions, self.answer_start, *columns, self.values)
        return outputs


def odd_bits(dtype: torch.dtype, rows: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return numbers with negative zeros and NaNs that carry a payload."""
    outputs = torch.randn(rows, width, generator=generator).to(dtype)
    outputs[:, ::3] = -0.0
    nan = {torch.float32: 0x7FC01234, torch.bfloat16: 0x7FC5, torch.float16: 0x7E05}[dtype]
    outputs[::2, -1] = torch.tensor(nan).to(INTEGER[dtype]).view(dtype)
    return outputs


@st.composite
def steps(draw: st.DrawFn) -> Step:
    dtype = draw(st.sampled_from(list(INTEGER)))
    rows, width = draw(st.integers(1, 9)), draw(st.sampled_from((1, 16, 33)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    table = torch.zeros(SLOTS, 4, dtype=torch.int64)
    for slot in range(SLOTS):
        rank = draw(st.sampled_from((0, 0, REPLACED, 1, 4)))
        span = draw(st.integers(1, 8))
        first = draw(st.sampled_from((-1, 0, 7, ROWS_OF_VALUES - 8)))
        table[slot] = torch.tensor([first, span, draw(st.integers(1, span)), rank])
    values = torch.randn(ROWS_OF_VALUES, width, generator=generator).to(dtype)
    outputs = odd_bits(dtype, rows, width, generator)
    token_slot = draw(st.lists(st.integers(-1, SLOTS - 1), min_size=rows + 2, max_size=rows + 2))
    positions = draw(st.lists(st.integers(0, 12), min_size=rows + 2, max_size=rows + 2))
    starts = draw(st.lists(st.integers(0, 6), min_size=SLOTS, max_size=SLOTS))
    return Step(
        outputs,
        torch.tensor(token_slot, dtype=torch.int32),
        torch.tensor(positions),
        torch.tensor(starts),
        table,
        values,
    )


def expected_row(step: Step, row: int) -> torch.Tensor | None:
    """Return what the row must be after the step, None where it must not be written."""
    slot = int(step.token_slot[row])
    if slot < 0:
        return None
    first, span, chunk, rank = step.table[slot].tolist()
    offset = int(step.positions[row] - step.answer_start[slot])
    if first == -1 or not 0 <= offset < span:
        return None
    before = step.outputs[row]
    if rank <= 0:
        shared: list[torch.Tensor] = [vector for vector in step.values[first:] for _ in range(chunk)]
        return shared[offset] if rank == REPLACED else before + shared[offset]
    factors = step.values[first : first + 2 * rank].double()
    delta = (before.double() @ factors[:rank].T) @ factors[rank:]
    return (before.double() + delta).to(before.dtype)


def slack(form: object, step: Step) -> int:
    """Return how many units in the last place may differ: none, but the interpreter truncates to bfloat16."""
    return 1 if form is inject_triton and step.outputs.dtype is torch.bfloat16 else 0


@settings(max_examples=60, deadline=None)
@given(step=steps())
def test_writes_the_rows_that_have_a_value_and_no_others(step: Step) -> None:
    integer = INTEGER[step.outputs.dtype]
    for form in FORMS:
        after = step.run(form)
        for row, actual in enumerate(after):
            expected = expected_row(step, row)
            if expected is None:
                assert torch.equal(actual.view(integer), step.outputs[row].view(integer))
            elif int(step.table[int(step.token_slot[row]), 3]) == REPLACED:
                assert torch.equal(actual.view(integer), expected.view(integer))
            elif int(step.table[int(step.token_slot[row]), 3]) == 0:
                number = ~expected.isnan()
                assert torch.equal(actual.isnan(), ~number)
                apart = actual[number].view(integer).int() - expected[number].view(integer).int()
                assert bool((apart.abs() <= slack(form, step)).all())
            else:
                tolerance = TOLERANCE[step.outputs.dtype]
                torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("form", FORMS)
def test_low_rank_rows_are_right_and_do_not_depend_on_the_batch(form: object) -> None:
    generator = torch.Generator().manual_seed(5)
    table = torch.tensor([[0, 9, 9, 4], [8, 9, 9, 4]])
    rows = 6
    step = Step(
        torch.randn(rows, 33, generator=generator),
        torch.tensor([0, 1, 0, 1, 0, 0], dtype=torch.int32),
        torch.arange(rows),
        torch.zeros(2, dtype=torch.int64),
        table,
        torch.randn(16, 33, generator=generator),
    )
    together = step.run(form)
    for row in range(rows):
        alone = Step(
            step.outputs[row : row + 1],
            step.token_slot[row : row + 1],
            step.positions[row : row + 1],
            step.answer_start,
            table,
            step.values,
        ).run(form)
        assert torch.equal(alone[0], together[row])
        expected = expected_row(step, row)
        assert expected is not None
        torch.testing.assert_close(together[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_chunks_and_low_rank_rows_stand_side_by_side_in_a_batch(form: object) -> None:
    long, short, lora = 7, 3, 2
    table = torch.tensor([[0, long, 3, 0], [10, short, short, 0], [20, 9, 9, lora]])
    values = torch.randn(ROWS_OF_VALUES, 16, generator=torch.Generator().manual_seed(1))
    values[[3, 11]] = torch.nan  # One row behind what the direct values may read.
    slots = torch.arange(3, dtype=torch.int32).repeat(9)
    positions = torch.arange(9).repeat_interleave(3)
    step = Step(torch.randn(27, 16), slots, positions, torch.zeros(3, dtype=torch.int64), table, values)
    after = step.run(form).reshape(9, 3, 16)
    before = step.outputs.reshape(9, 3, 16)
    rows = values[[0, 0, 0, 1, 1, 1, 2]]
    assert torch.equal(after[:long, 0], before[:long, 0] + rows)
    assert torch.equal(after[:short, 1], before[:short, 1] + values[10])
    assert torch.equal(after[long:, 0], before[long:, 0])
    assert torch.equal(after[short:, 1], before[short:, 1])
    down, up = values[20:24].chunk(2)
    expected = before[:, 2] + (before[:, 2] @ down.T) @ up
    torch.testing.assert_close(after[:, 2], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", INTEGER)
def test_a_row_that_is_replaced_stands_beside_one_that_is_added_to_and_a_low_rank_one(
    form: object, dtype: torch.dtype
) -> None:
    # Whole numbers, so that every sum is exact in every type.
    values = torch.arange(3 * 16).reshape(3, 16).remainder(3).to(dtype)
    values[0, 0] = -0.0
    outputs = torch.ones(5, 16, dtype=dtype)
    outputs[0] = torch.nan
    outputs[3, ::2] = -0.0
    table = torch.tensor([[0, 1, 1, REPLACED], [0, 1, 1, 0], [1, 1, 1, 1]])
    slots, positions = torch.tensor([0, 1, 2, 0, -1], dtype=torch.int32), torch.tensor([4, 4, 4, 5, 4])
    step = Step(outputs, slots, positions, torch.full((3,), 4), table, values)
    after, integer = step.run(form), INTEGER[dtype]
    assert torch.equal(after[0].view(integer), values[0].view(integer))
    assert torch.equal(after[1], 1 + values[0])
    assert torch.equal(after[2], 1 + values[1].sum() * values[2])
    assert torch.equal(after[3:].view(integer), outputs[3:].view(integer))


@pytest.mark.parametrize("form", FORMS)
def test_a_vector_that_replaces_is_rounded_once(form: object) -> None:
    zero, one = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    outputs, values = torch.full((1, 16), torch.nan, dtype=torch.float16), torch.linspace(0.1, 1.6, 16)[None]
    assert callable(form)
    form(outputs, zero, zero, zero, zero, one, one, REPLACED * one, values)
    assert torch.equal(outputs, values.half())


def test_columns_of_different_strides_are_refused() -> None:
    column = torch.zeros(SLOTS, dtype=torch.int64)
    spread = torch.zeros(SLOTS, 2, dtype=torch.int64)[:, 0]
    row = column[:1]
    with pytest.raises(ValueError, match="expected one"):
        inject_triton(torch.zeros(1, 3), row, row, column, spread, column, column, column, torch.zeros(2, 3))
