"""Row allocator: a stateful property test against a plain set model."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from horen_vllm.core.paging import RowAllocator
from horen_vllm.errors import FailedPrecondition

CAPACITY = 24


class AllocatorMachine(RuleBasedStateMachine):
    """Allocates and frees at random; the model is the set of rows that each run owns."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = RowAllocator(CAPACITY)
        self.owned: dict[int, set[int]] = {}

    @rule(count=st.integers(1, 9), align=st.sampled_from([1, 1, 2, 3, 5]))
    def allocate(self, count: int, align: int) -> None:
        taken = set().union(*self.owned.values()) if self.owned else set()
        fits = any(
            all(row not in taken for row in range(first, first + count))
            for first in range(0, CAPACITY - count + 1, align)
        )
        if not fits:
            with pytest.raises(FailedPrecondition) as caught:
                self.allocator.allocate(count, align)
            assert caught.value.code == "capacity_exhausted"
            return
        start = self.allocator.allocate(count, align)
        assert start % align == 0
        rows = set(range(start, start + count))
        assert not rows & taken
        assert max(rows) < CAPACITY
        self.owned[start] = rows

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        start = data.draw(st.sampled_from(sorted(self.owned)))
        self.allocator.free(start)
        del self.owned[start]

    @invariant()
    def used_and_free_add_up(self) -> None:
        assert self.allocator.num_free + sum(map(len, self.owned.values())) == CAPACITY


TestAllocator = AllocatorMachine.TestCase


def test_freeing_what_is_not_in_use_is_an_error() -> None:
    with pytest.raises(KeyError):
        RowAllocator(4).free(0)
