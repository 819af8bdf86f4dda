"""Contract of `ports.EditQueue`: what is known of each time that a worker took an edit."""

from collections.abc import Callable
from datetime import datetime, timedelta

from horen_vllm.ids import CodebookName, EditId
from horen_vllm.registry.models import MAX_ATTEMPTS, Claim, EditSpec, Publication
from horen_vllm.registry.ports import Registry

Advance = Callable[[float], None]

SPEC = EditSpec(prompt="p", target="t")


def claimed(registry: Registry, worker: str = "w1") -> Claim:
    (claim,) = registry.claim(worker, lease_s=30, fingerprint="fp")
    return claim


def outcomes(registry: Registry, edit_id: EditId) -> list[tuple[int, str, str | None]]:
    return [(it.number, it.worker, it.outcome) for it in registry.attempts(edit_id)]


def test_an_attempt_runs_until_the_edit_is_closed(
    registry: Registry, book: CodebookName, advance: Advance, now: Callable[[], datetime]
) -> None:
    first, second, third = (registry.submit(book, SPEC).edit_id for _ in range(3))
    assert list(registry.attempts(first)) == []
    claim = claimed(registry)
    (attempt,) = registry.attempts(first)
    assert (attempt.number, attempt.worker, attempt.started_at) == (1, "w1", now())
    assert (attempt.ended_at, attempt.outcome) == (None, None)
    advance(5)
    registry.publish([(claim, Publication(artifact="aa", base_revision=1))])
    (attempt,) = registry.attempts(first)
    assert attempt.ended_at == now() == attempt.started_at + timedelta(seconds=5)
    registry.finish_same(claimed(registry), first)
    registry.fail(claimed(registry), "code", "reason")
    assert [outcomes(registry, edit) for edit in (first, second, third)] == [
        [(1, "w1", "published")], [(1, "w1", "published")], [(1, "w1", "failed")],
    ]  # fmt: skip


def test_attempts_that_were_given_back_or_cut_short_are_known(
    registry: Registry, book: CodebookName, advance: Advance
) -> None:
    edit = registry.submit(book, SPEC).edit_id
    registry.give_back([claimed(registry)])
    advance(31)
    assert claimed(registry, "w2").attempt == 1
    advance(31)
    claimed(registry, "w3")
    assert outcomes(registry, edit) == [(1, "w1", "given_back"), (2, "w2", "lease_expired"), (3, "w3", None)]


def test_the_last_attempt_of_a_given_up_edit_has_ended(
    registry: Registry, book: CodebookName, advance: Advance
) -> None:
    edit = registry.submit(book, SPEC).edit_id
    for _ in range(MAX_ATTEMPTS):
        claimed(registry)
        advance(31)
    assert registry.claim("w1", lease_s=30, fingerprint="fp") == ()
    assert {it.outcome for it in registry.attempts(edit)} == {"lease_expired"}
    assert len(registry.attempts(edit)) == MAX_ATTEMPTS
