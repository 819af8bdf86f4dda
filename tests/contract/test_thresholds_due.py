"""Contract of `ports.ThresholdStore`: thresholds after entries have gone."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from horen_vllm.errors import FailedPrecondition, InvalidArgument
from horen_vllm.ids import CodebookName, TenantId
from horen_vllm.registry.models import EditRecord, EditSpec, RevisionKind
from horen_vllm.registry.ports import Registry

from .conftest import PARAMETERS

Publish = Callable[..., EditRecord]
Advance = Callable[[float], None]

FOLLOWING = replace(PARAMETERS, threshold=0.1, false_fire_rate=0.01, background="b" * 64)


@pytest.fixture
def followed(registry: Registry) -> CodebookName:
    """Return a codebook whose threshold follows its keys."""
    name = CodebookName(TenantId("acme"), "followed")
    registry.create_codebook(name, model="llama", fingerprint="fp", site="layers.29", parameters=FOLLOWING)
    return name


def test_a_threshold_is_due_once_an_entry_has_gone(
    registry: Registry, followed: CodebookName, publish: Publish
) -> None:
    edit = publish(followed, threshold=0.5)
    assert list(registry.thresholds_due("fp")) == []
    registry.retire_edit(edit.edit_id)
    assert list(registry.thresholds_due("fp")) == [followed]
    assert list(registry.thresholds_due("other")) == []
    assert registry.get_codebook(followed).parameters.threshold == 0.5
    made = registry.set_threshold(followed, base_revision=3, threshold=0.25)
    assert made is not None
    assert (made.number, made.kind, made.threshold, made.entry_count) == (4, RevisionKind.THRESHOLD, 0.25, 0)
    assert registry.get_codebook(followed).parameters.threshold == 0.25
    assert registry.list_revisions(followed)[-1] == made
    assert list(registry.thresholds_due("fp")) == []


def test_a_fixed_threshold_is_never_due(registry: Registry, book: CodebookName, publish: Publish) -> None:
    registry.retire_edit(publish(book).edit_id)
    assert list(registry.thresholds_due("fp")) == []


def test_a_threshold_is_set_once_and_for_its_revision(
    registry: Registry, followed: CodebookName, publish: Publish
) -> None:
    edits = [publish(followed, threshold=0.5) for _ in range(2)]
    registry.retire_edit(edits[0].edit_id)
    with pytest.raises(FailedPrecondition) as moved:
        registry.set_threshold(followed, base_revision=3, threshold=0.25)
    assert moved.value.code == "revision_moved"
    with pytest.raises(InvalidArgument) as caught:
        registry.set_threshold(followed, base_revision=4, threshold=7.0)
    assert caught.value.code == "invalid_parameter"
    assert list(registry.thresholds_due("fp")) == [followed]
    assert registry.set_threshold(followed, base_revision=4, threshold=0.5) is None
    assert registry.set_threshold(followed, base_revision=4, threshold=0.25) is None
    assert registry.get_codebook(followed).revision == 4
    assert list(registry.thresholds_due("fp")) == []


def test_a_publication_or_a_rollback_settles_it(registry: Registry, followed: CodebookName, publish: Publish) -> None:
    edit = publish(followed, threshold=0.5)
    registry.retire_edit(edit.edit_id)
    publish(followed, threshold=0.4)
    assert list(registry.thresholds_due("fp")) == []
    registry.rollback(followed, 2)
    registry.retire_edit(edit.edit_id)
    registry.rollback(followed, 2)
    # Exactly as it was: its threshold was right for its entries.
    assert list(registry.thresholds_due("fp")) == []
    assert registry.get_codebook(followed).parameters.threshold == 0.5


def test_what_a_worker_is_busy_with_waits_for_its_publication(
    registry: Registry, followed: CodebookName, publish: Publish, advance: Advance
) -> None:
    registry.retire_edit(publish(followed, threshold=0.5).edit_id)
    registry.submit(followed, EditSpec(prompt="p", target="t"))
    assert list(registry.thresholds_due("fp")) == [followed]
    registry.claim("worker", lease_s=30, fingerprint="fp")
    assert list(registry.thresholds_due("fp")) == []
    advance(31)
    assert list(registry.thresholds_due("fp")) == [followed]
