"""What every artifact store promises: what was put is read back or refused, never something else."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from horen_vllm.artifacts.store import ArtifactStore, digest_of, file_of
from horen_vllm.errors import DataLoss, HorenError, NotFound

Open = Callable[[], ArtifactStore]
CONTENT = b"an entry " * 1000


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(HorenError) as caught:
        call()
    return caught.value.code


def test_what_was_put_is_read_by_others(store: ArtifactStore, open_store: Open, place: Path) -> None:
    digest = store.put(CONTENT)
    assert digest == digest_of(CONTENT)
    assert open_store().read(digest) == store.read(digest) == CONTENT
    assert (place / file_of(digest)).read_bytes() == CONTENT


@pytest.mark.parametrize("data", [b"", b"\0", bytes(range(256)) * 40])
def test_any_bytes_are_an_artifact(store: ArtifactStore, data: bytes) -> None:
    assert store.read(store.put(data)) == data


def test_putting_twice_leaves_one_file(store: ArtifactStore) -> None:
    assert store.put(CONTENT) == store.put(CONTENT)
    assert [stored.digest for stored in store.list()] == [digest_of(CONTENT)]


def test_a_missing_file_is_said_to_be_missing(store: ArtifactStore, tmp_path: Path) -> None:
    digest = digest_of(b"never put")
    assert store.find(digest) is None
    assert list(store.list()) == []
    for read in (lambda: store.read(digest), lambda: store.fetch(digest, tmp_path / "copy")):
        with pytest.raises(NotFound, match=digest) as caught:
            read()
        assert caught.value.code == "unknown_artifact"
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT[:-1] + b"?", CONTENT + b"more"])
def test_damage_is_refused_and_mended_by_the_next_put(store: ArtifactStore, place: Path, damage: bytes) -> None:
    digest = store.put(CONTENT)
    (place / file_of(digest)).write_bytes(damage)
    with pytest.raises(DataLoss) as caught:
        store.read(digest)
    assert caught.value.code == "artifact_corrupt"
    assert store.put(CONTENT) == digest
    assert store.read(digest) == CONTENT


def test_many_are_read_in_order_up_to_the_missing_one(store: ArtifactStore) -> None:
    files = [f"file {number}".encode() for number in range(40)]
    digests = [store.put(data) for data in files]
    assert list(store.read_many(digests)) == files
    assert list(store.read_many([])) == []
    reading = store.read_many([*digests[:3], digest_of(b"never put"), *digests[3:]])
    assert [next(reading) for _ in range(3)] == files[:3]
    assert code_of(lambda: next(reading)) == "unknown_artifact"


def test_a_file_is_fetched_to_a_path(store: ArtifactStore, tmp_path: Path) -> None:
    target = tmp_path / "far" / "away"
    store.fetch(store.put(CONTENT), target)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_sizes_and_ages_are_told(store: ArtifactStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)  # some stores know seconds only
    digests = {store.put(CONTENT): len(CONTENT), store.put(b"x"): 1}
    after = datetime.now(UTC) + timedelta(seconds=2)
    listed = {stored.digest: stored for stored in store.list()}
    assert {digest: stored.size for digest, stored in listed.items()} == digests
    for digest, stored in listed.items():
        assert before <= stored.modified_at <= after
        found = store.find(digest)
        assert found is not None
        assert (found.digest, found.size) == (digest, digests[digest])
        assert digest in store.where(digest)


def test_other_files_are_not_listed(store: ArtifactStore, place: Path) -> None:
    digest = store.put(CONTENT)
    (place / digest[:2] / ".put-abc").write_bytes(b"half a file")
    (place / "README").write_bytes(b"hello")
    (place / digest[:2] / f"{digest[:-1]}.safetensors").write_bytes(CONTENT)
    assert [stored.digest for stored in store.list()] == [digest]


def test_what_was_deleted_is_gone_and_may_come_back(store: ArtifactStore) -> None:
    digest, other = store.put(CONTENT), store.put(b"other")
    store.read(digest)
    store.delete(digest)
    store.delete(digest)
    assert (store.find(digest), code_of(lambda: store.read(digest))) == (None, "unknown_artifact")
    assert store.read(other) == b"other"
    store.put(CONTENT)
    assert store.read(digest) == CONTENT


def test_two_writers_of_the_same_content_agree(open_store: Open) -> None:
    contents = [f"content {number}".encode() * 2000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        puts = [threads.submit(open_store().put, data) for data in contents for _ in range(2)]
        assert {put.result() for put in puts} == {digest_of(data) for data in contents}
    store = open_store()
    assert {stored.digest for stored in store.list()} == {digest_of(data) for data in contents}
    assert list(store.read_many(map(digest_of, contents))) == contents
