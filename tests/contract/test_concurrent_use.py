"""Several processes on one registry: two connections, each in its own thread."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from horen_vllm.ids import CodebookName, EditId, TenantId
from horen_vllm.registry.models import EditSpec, EditState, Publication, RequestKey
from horen_vllm.registry.ports import Registry

EDITS = 20


def submit_all(registry: Registry, book: CodebookName, who: str) -> list[int]:
    specs = [EditSpec(prompt=f"{who} {number}", target="t") for number in range(EDITS)]
    return [registry.submit(book, spec, request=key(spec)).sequence for spec in specs]


def key(spec: EditSpec) -> RequestKey:
    return RequestKey(tenant=TenantId("acme"), method="SubmitEdit", request_id=spec.prompt, digest="d")


def publish_all(registry: Registry, book: CodebookName, who: str) -> list[EditId]:
    """Work in batches of 3 until every edit is finished, whoever finished it."""
    done: list[EditId] = []
    while any(edit.state is not EditState.PUBLISHED for edit in registry.list_edits(book)):
        claims = registry.claim(who, lease_s=3600, fingerprint="fp", limit=3)
        base = registry.get_codebook(book).revision
        publications = (Publication(artifact=who, base_revision=base + number) for number in range(len(claims)))
        batch = list(zip(claims, publications, strict=True))
        done += [edit.edit_id for edit in registry.publish(batch)]
    return done


def test_submissions_share_one_sequence(open_registry: Callable[[], Registry], book: CodebookName) -> None:
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(submit_all, open_registry(), book, "one")
        two = pool.submit(submit_all, open_registry(), book, "two")
        sequences = one.result() + two.result()
    assert sorted(sequences) == list(range(1, 2 * EDITS + 1))
    assert one.result() == sorted(one.result())


def test_a_request_sent_twice_at_once_is_stored_once(open_registry: Callable[[], Registry], book: CodebookName) -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(submit_all, open_registry(), book, "same") for _ in range(2)]
        assert futures[0].result() == futures[1].result() == list(range(1, EDITS + 1))


def test_every_edit_is_published_once_and_in_order(
    open_registry: Callable[[], Registry], registry: Registry, book: CodebookName
) -> None:
    submit_all(registry, book, "user")
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(publish_all, open_registry(), book, "one")
        two = pool.submit(publish_all, open_registry(), book, "two")
        done = one.result() + two.result()
    edits = registry.list_edits(book)
    assert sorted(done) == sorted(edit.edit_id for edit in edits)
    assert [edit.published_revision for edit in edits] == list(range(2, EDITS + 2))
    assert [edit.attempt for edit in edits] == [1] * EDITS
    assert registry.get_codebook(book).entry_count == EDITS


def test_what_was_written_is_there_for_the_next_one_to_open_it(
    open_registry: Callable[[], Registry], registry: Registry, book: CodebookName
) -> None:
    submit_all(registry, book, "user")
    (claim,) = registry.claim("worker", lease_s=30, fingerprint="fp")
    (edit,) = registry.publish([(claim, Publication(artifact="aa", base_revision=1))])
    registry.close()
    reopened = open_registry()
    assert reopened.get_edit(edit.edit_id) == edit
    assert [entry.artifact for entry in reopened.entries(book)] == ["aa"]
    assert len(reopened.list_edits(book)) == EDITS
    reopened.check_schema()
