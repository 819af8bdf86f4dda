"""Contract of `ports.PreviewStore`."""

from collections.abc import Callable

import pytest

from horen_vllm.errors import FailedPrecondition, NotFound
from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.models import EditSpec
from horen_vllm.registry.ports import Registry
from horen_vllm.registry.preview_records import Collision, PreviewAnswer, PreviewVerdict

Create = Callable[..., CodebookName]
Advance = Callable[[float], None]

SPEC = EditSpec(prompt="Who leads Åcme?", target="Ann", subject="Åcme", aliases=("A",), paraphrases=("Åcme's head?",))
ANSWER = PreviewAnswer(
    verdict=PreviewVerdict.SUPERSEDES,
    revision=7,
    related=(EditId("e1"),),
    collisions=(Collision(edit_id=EditId("e2"), text="Åcme's head?", score=0.1 + 0.2, threshold=0.85),),
)


def test_a_worker_answers_a_preview(registry: Registry, book: CodebookName, now: Callable[[], object]) -> None:
    registry.submit(book, SPEC)
    preview = registry.ask_preview(book, SPEC, wait_s=10)
    assert registry.preview_answer(preview) is None
    task = registry.claim_preview("w1", fingerprint="fp", lease_s=5)
    assert task is not None
    assert (task.preview_id, task.codebook, task.spec, task.sequence, task.created_at) == (
        preview, book, SPEC, 2, now(),
    )  # fmt: skip
    assert registry.claim_preview("w2", fingerprint="fp", lease_s=5) is None
    registry.answer_preview("w1", preview, ANSWER)
    assert registry.preview_answer(preview) == ANSWER
    assert registry.claim_preview("w2", fingerprint="fp", lease_s=5) is None
    registry.drop_preview(preview)
    registry.drop_preview(preview)
    with pytest.raises(NotFound) as caught:
        registry.preview_answer(preview)
    assert caught.value.code == "unknown_preview"


def test_previews_are_handed_out_in_order_by_base_model(
    registry: Registry, book: CodebookName, create: Create, advance: Advance
) -> None:
    other = create("other", fingerprint="other")
    registry.ask_preview(other, SPEC, wait_s=60)
    first = registry.ask_preview(book, SPEC, wait_s=60)
    advance(1)
    second = registry.ask_preview(book, SPEC, wait_s=60)
    tasks = [registry.claim_preview("w1", fingerprint="fp", lease_s=5) for _ in range(3)]
    assert [task and task.preview_id for task in tasks] == [first, second, None]


def test_a_preview_of_a_dead_worker_is_handed_out_again(
    registry: Registry, book: CodebookName, advance: Advance
) -> None:
    preview = registry.ask_preview(book, SPEC, wait_s=60)
    assert registry.claim_preview("w1", fingerprint="fp", lease_s=5) is not None
    advance(5)
    assert registry.claim_preview("w2", fingerprint="fp", lease_s=5) is not None
    with pytest.raises(FailedPrecondition) as caught:
        registry.answer_preview("w1", preview, ANSWER)
    assert caught.value.code == "claim_lost"
    registry.answer_preview("w2", preview, ANSWER)


def test_nobody_works_for_callers_who_have_left(registry: Registry, book: CodebookName, advance: Advance) -> None:
    preview = registry.ask_preview(book, SPEC, wait_s=10)
    advance(10)
    assert registry.claim_preview("w1", fingerprint="fp", lease_s=5) is None
    registry.ask_preview(book, SPEC, wait_s=10)
    with pytest.raises(NotFound):
        registry.preview_answer(preview)
    with pytest.raises(NotFound):
        registry.answer_preview("w1", preview, ANSWER)


def test_a_preview_needs_a_codebook(registry: Registry) -> None:
    with pytest.raises(NotFound) as caught:
        registry.ask_preview(CodebookName(TenantId("acme"), "nothing"), SPEC, wait_s=1)
    assert caught.value.code == "unknown_codebook"
