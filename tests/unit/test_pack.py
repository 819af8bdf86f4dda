"""Packs: all entries of an update in one file, and nothing else is read as one."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from horen_vllm.core.presets import ValueMode
from horen_vllm.errors import DataLoss, FailedPrecondition
from horen_vllm.pack import EntryPack, build_pack, encode_pack, read_pack
from tests.unit.plugin.entries import D_IN, D_OUT, make_entry, pack_of

Read = Callable[[bytes], EntryPack]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write bytes to a file and read them as a pack that was announced with their hash."""

    def read_bytes(data: bytes) -> EntryPack:
        path = tmp_path / "update.pack"
        path.write_bytes(data)
        return read_pack(path, hashlib.sha256(data).hexdigest())

    return read_bytes


def sample() -> EntryPack:
    return pack_of(
        [
            (7, make_entry("e1", num_keys=2, span=3)),
            (9, make_entry("ünï", seed=1, span=4, mode=ValueMode.ANSWER)),
            (8, make_entry("e3", seed=2, span=4, rank=2)),
            (10, make_entry("e4", seed=3, span=5, chunk=2)),
        ]
    )


def test_a_pack_survives_the_file(read: Read) -> None:
    pack = sample()
    found = read(encode_pack(pack))
    assert found.rows == pack.rows
    assert torch.equal(found.keys, pack.keys)
    assert torch.equal(found.values, pack.values)
    assert encode_pack(found) == encode_pack(pack)


def test_a_reader_may_pace_the_loops_over_the_files_pieces_and_the_rows(tmp_path: Path) -> None:
    data, taken = encode_pack(sample()), []
    path = tmp_path / "update.pack"
    path.write_bytes(data)

    def pace(pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            taken.append(piece)
            yield piece

    assert len(read_pack(path, hashlib.sha256(data).hexdigest(), pace).rows) == 4
    lines = taken[-4:]
    assert b"".join(taken[:-4]) == data
    assert [json.loads(line)["edit_id"] for line in lines] == ["e1", "ünï", "e3", "e4"]


def test_a_pack_is_read_only_with_the_content_it_was_announced_with(tmp_path: Path) -> None:
    data = encode_pack(sample())
    path = tmp_path / "update.pack"
    path.write_bytes(data + b"x")
    for wrong in (path, tmp_path / "missing.pack", tmp_path):
        with pytest.raises(DataLoss, match=wrong.name) as caught:
            read_pack(wrong, hashlib.sha256(data).hexdigest())
        assert caught.value.code == "pack_unreadable"
        assert str(tmp_path) not in caught.value.message


def test_strided_tensors_are_written_in_order(read: Read) -> None:
    pack = replace(sample(), keys=sample().keys.T.contiguous().T)
    assert torch.equal(read(encode_pack(pack)).keys, pack.keys)


def test_rows_tell_where_each_entry_begins_and_what_it_is() -> None:
    pack, lora = sample(), make_entry("e3", seed=2, span=4, rank=2)
    assert [(row.edit_id, row.sequence, row.keys, row.values, row.chunk, row.rank) for row in pack.rows] == [
        ("e1", 7, 2, 3, 1, 0),
        ("ünï", 9, 1, 1, 4, 0),
        ("e3", 8, 1, 4, 4, 2),
        ("e4", 10, 1, 3, 2, 0),
    ]
    assert torch.equal(pack.values[4:8], lora.values)
    assert [len(row.key_digests) for row in pack.rows] == [2, 1, 1, 1]


def test_an_update_that_only_removes_has_an_empty_pack(read: Read) -> None:
    found = read(encode_pack(build_pack([])))
    assert (found.rows, found.keys.numel(), found.values.numel()) == ((), 0, 0)


@given(bits=st.lists(st.integers(0, 3), min_size=2, max_size=6))
@settings(max_examples=30, deadline=None)
def test_keys_have_equal_digests_exactly_when_their_bytes_are_equal(bits: list[int]) -> None:
    keys = torch.eye(D_IN)[bits]
    [row] = pack_of([(1, make_entry("e", keys=keys))]).rows
    assert [row.key_digests.index(digest) for digest in row.key_digests] == [bits.index(bit) for bit in bits]


def test_a_strided_or_half_key_has_the_digest_of_what_is_stored() -> None:
    keys = torch.randn(D_IN, 2).half()
    [row] = pack_of([(1, make_entry("e", keys=keys.T))]).rows
    [stored] = pack_of([(1, make_entry("e", keys=keys.T.float().contiguous()))]).rows
    assert row.key_digests == stored.key_digests


WRONG_SHAPES: dict[str, dict[str, Any]] = {
    "keys without rows": {"keys": torch.ones(0, D_IN)},
    "keys with one axis": {"keys": torch.ones(D_IN)},
    "values with one axis": {"values": torch.ones(2)},
    "fewer values than the span": {"values": torch.ones(1, D_OUT)},
    "more values than the span": {"values": torch.ones(3, D_OUT)},
    "no values": {"values": torch.ones(0, D_OUT)},
    "no span": {"values": torch.ones(0, D_OUT), "span": 0},
    "no chunk": {"values": torch.ones(2, D_OUT), "chunk": 0},
    "fewer values than the span's chunks": {"values": torch.ones(2, D_OUT), "span": 5, "chunk": 2},
    "more values than the span's chunks": {"values": torch.ones(4, D_OUT), "span": 5, "chunk": 2},
    "LoRA rows of another rank": {"values": torch.ones(2, D_OUT), "rank": 2},
    "a negative rank": {"values": torch.ones(2, D_OUT), "rank": -1},
}


@pytest.mark.parametrize("wrong", WRONG_SHAPES.values(), ids=WRONG_SHAPES.keys())
def test_an_entry_that_is_not_what_it_says_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FailedPrecondition, match="bad") as caught:
        pack_of([(1, make_entry("good")), (2, make_entry("bad", **wrong))])
    assert caught.value.code == "wrong_shape"


@pytest.mark.parametrize("wrong", [{"keys": torch.ones(1, D_IN + 1)}, {"values": torch.ones(2, D_OUT + 1)}])
def test_entries_of_different_width_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        pack_of([(1, make_entry("e1")), (2, make_entry("e2", **wrong))])
    assert caught.value.code == "wrong_shape"


@pytest.mark.parametrize("size", [0, 4, 8, 60, -1, -200])
def test_truncated_bytes_are_refused(read: Read, size: int) -> None:
    with pytest.raises(DataLoss) as caught:
        read(encode_pack(sample())[:size])
    assert caught.value.code == "pack_unreadable"


def rewritten(pack: EntryPack, rows: Any) -> bytes:
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    tensor = torch.frombuffer(bytearray(lines or b"\n"), dtype=torch.uint8)
    data: bytes = save({"keys": pack.keys, "values": pack.values, "rows": tensor})
    return data


BROKEN_ROWS: dict[str, dict[str, Any]] = {
    "an unknown field": {"surprise": 1},
    "a longer span": {"span": 4},
    "no span": {"span": 0, "values": 0},
    "no chunk": {"chunk": 0},
    "longer chunks": {"chunk": 2},
    "another rank": {"rank": 1},
    "more keys than there are": {"keys": 3, "key_digests": ["a", "b", "c"]},
    "fewer keys than there are": {"keys": 1, "key_digests": ["a"]},
    "a key without a digest": {"key_digests": ["a"]},
    "more values than there are": {"values": 4},
    "an edit twice": {"edit_id": "e3"},
}


@pytest.mark.parametrize("change", BROKEN_ROWS.values(), ids=BROKEN_ROWS.keys())
def test_rows_that_contradict_the_tensors_are_refused(read: Read, change: dict[str, Any]) -> None:
    """A worker copies by these numbers: a short slice would be broadcast over its neighbours' rows."""
    pack = sample()
    rows = [asdict(row) for row in pack.rows]
    assert read(rewritten(pack, rows)).rows == pack.rows
    rows[0] |= change
    with pytest.raises(DataLoss) as caught:
        read(rewritten(pack, rows))
    assert caught.value.code == "pack_unreadable"


@pytest.mark.parametrize("rows", [[], [3], [{}], [None], ["x"], [[]]])
def test_rows_of_another_kind_are_refused(read: Read, rows: Any) -> None:
    with pytest.raises(DataLoss):
        read(rewritten(sample(), rows))


def test_a_file_of_another_kind_is_refused(read: Read) -> None:
    pack = sample()
    tensors = {"keys": pack.keys, "values": pack.values}
    for data in (save(tensors), save({**tensors, "rows": pack.keys.bfloat16()}), b"\xff" * 64):
        with pytest.raises(DataLoss):
            read(data)


def test_tensors_of_another_kind_are_refused(read: Read) -> None:
    pack = sample()
    for wrong in (replace(pack, keys=pack.keys.flatten()), replace(pack, values=pack.values.double())):
        with pytest.raises(DataLoss):
            read(encode_pack(wrong))
