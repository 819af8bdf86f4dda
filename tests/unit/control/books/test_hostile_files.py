"""Files that somebody made on purpose: sealed like an export, and none."""

import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.artifacts.store import digest_of
from horen_vllm.control.bookfile import layout, lines, reading
from horen_vllm.control.bookfile.layout import artifact_member
from horen_vllm.control.bookfile.reading import BookReader
from horen_vllm.control.bookfile.seal import PLACEHOLDER, seal
from horen_vllm.core.presets import MethodParameters
from horen_vllm.errors import InvalidArgument

PARAMETERS = MethodParameters(preset="cosine", threshold=0.85)
HEADER: dict[str, Any] = {
    "format_version": 1,
    "codebook": "tenants/acme/codebooks/facts",
    "model": "m",
    "fingerprint": "f",
    "site": "s",
    "parameters": PARAMETERS.to_dict(),
    "revision": 2,
    "entries": 1,
    "exported_at": "2026-11-29T00:00:00+00:00",
}
ARTIFACT = b"an entry"
EDIT: dict[str, Any] = {
    "prompt": "p",
    "target": "t",
    "subject": None,
    "aliases": [],
    "paraphrases": [],
    "must_not_fire": [],
    "origin": "e1",
    "edit_id": "e1",
    "sequence": 1,
    "state": "active",
    "artifact": digest_of(ARTIFACT),
    "alias_of": None,
    "same_as": None,
    "supersedes": [],
    "expires_at": None,
    "retired_at": None,
}
Members = list[tuple[str | zipfile.ZipInfo, bytes]]


def members(header: object = HEADER, edits: list[object] | None = None) -> Members:
    text = b"".join(json.dumps(edit).encode() + b"\n" for edit in ([EDIT] if edits is None else edits))
    return [
        ("codebook.json", json.dumps(header).encode()),
        ("edits.jsonl", text),
        (artifact_member(digest_of(ARTIFACT)), ARTIFACT),
    ]


def sealed(parts: Members) -> BytesIO:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts:
            archive.writestr(name, data)
        archive.comment = PLACEHOLDER
    seal(file)
    return file


def read_all(file: BytesIO) -> None:
    reader = BookReader(file)
    for edit in reader.edits():
        if edit.artifact is not None:
            reader.artifact(edit.artifact)


def refused(file: BytesIO) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read_all(file)
    assert caught.value.code == "invalid_export"
    return caught.value.message


def test_a_plain_file_is_read() -> None:
    reader = BookReader(sealed(members()))
    (edit,) = reader.edits()
    assert (reader.header.parameters, reader.header.entries) == (PARAMETERS, 1)
    assert reader.artifact(edit.artifact or "") == ARTIFACT


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "artifacts/../../evil.safetensors",
        "artifacts/" + "A" * 64 + ".safetensors",
        "artifacts/",
        "codebook.json/",
        "readme",
        f"artifacts\\{'a' * 64}.safetensors",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    assert "another name" in refused(sealed([*members(), (name, b"x")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused() -> None:
    assert "twice" in refused(sealed([*members(), ("codebook.json", b"{}")]))


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_missing_member_is_refused(left_out: int) -> None:
    parts = members()
    del parts[left_out]
    refused(sealed(parts))


def test_an_artifact_with_other_content_is_refused() -> None:
    parts = members()
    parts[2] = (parts[2][0], b"another entry")
    assert "named after" in refused(sealed(parts))


def test_a_packed_artifact_is_refused() -> None:
    bomb = zipfile.ZipInfo(artifact_member("b" * 64))
    bomb.compress_type = zipfile.ZIP_DEFLATED
    assert "packed" in refused(sealed([*members(), (bomb, bytes(10_000_000))]))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing_are_refused(method: int) -> None:
    info = zipfile.ZipInfo("edits.jsonl")
    info.compress_type = method
    parts = members()
    parts[1] = (info, parts[1][1])
    assert "another way" in refused(sealed(parts))


def test_an_encrypted_member_is_refused() -> None:
    file = sealed(members())
    data = bytearray(file.getvalue())
    # The flags of the first member, in its own header and in the directory.
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    refused(resealed(data))


@pytest.mark.parametrize(("module", "limit"), [(reading, "MAX_HEADER_BYTES"), (reading, "MAX_EDITS_BYTES")])
def test_members_over_their_limits_are_refused(monkeypatch: pytest.MonkeyPatch, module: Any, limit: str) -> None:
    monkeypatch.setattr(module, limit, 100)
    assert "too large" in refused(sealed(members()))


def test_an_artifact_over_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_ARTIFACT_BYTES", len(ARTIFACT) - 1)
    assert "too large" in refused(sealed(members()))


def test_too_many_artifacts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_ARTIFACTS", 0)
    assert "too many" in refused(sealed(members()))


@pytest.mark.parametrize(("limit", "value"), [("MAX_LINE_BYTES", 50), ("MAX_EDITS", 0), ("MAX_EDITS_BYTES", 50)])
def test_edits_over_their_limits_are_refused(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(lines, limit, value)
    assert "too many or too large" in refused(sealed(members()))


def test_a_directory_that_lies_about_sizes_is_refused() -> None:
    packed = zipfile.ZipInfo("edits.jsonl")
    packed.compress_type = zipfile.ZIP_DEFLATED
    parts = members()
    parts[1] = (packed, parts[1][1] * 1000)
    data = bytearray(sealed(parts).getvalue())
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[entry + 24 : entry + 28] = (100).to_bytes(4, "little")
    refused(resealed(data))


@pytest.mark.parametrize(
    "header",
    [
        [],
        None,
        {},
        {**HEADER, "format_version": 2},
        {**HEADER, "more": 1},
        {**HEADER, "revision": 0},
        {**HEADER, "revision": "2"},
        {**HEADER, "revision": True},
        {**HEADER, "entries": -1},
        {**HEADER, "site": 3},
        {**HEADER, "exported_at": "yesterday"},
        {**HEADER, "parameters": {}},
        {**HEADER, "parameters": {**PARAMETERS.to_dict(), "threshold": 2.0}},
        {key: value for key, value in HEADER.items() if key != "site"},
    ],
)
def test_other_headers_are_refused(header: object) -> None:
    refused(sealed(members(header)))


def test_a_header_that_is_no_json_is_refused() -> None:
    for text in (b"{", b"\xff", b"[" * 100_000):
        parts = members()
        parts[0] = ("codebook.json", text)
        refused(sealed(parts))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in EDIT.items() if key != name}


@pytest.mark.parametrize(
    "edit",
    [
        [],
        "text",
        without("origin"),
        {**EDIT, "more": 1},
        {**EDIT, "prompt": ""},
        {**EDIT, "prompt": 3},
        {**EDIT, "target": None},
        {**EDIT, "subject": "who is not in it"},
        {**EDIT, "aliases": "abc"},
        {**EDIT, "paraphrases": [1]},
        {**EDIT, "must_not_fire": [""]},
        {**EDIT, "prompt": "a\x00b"},
        {**EDIT, "origin": "../e1"},
        {**EDIT, "edit_id": ""},
        {**EDIT, "sequence": "1"},
        {**EDIT, "sequence": True},
        {**EDIT, "sequence": 0},
        {**EDIT, "state": "serving"},
        {**EDIT, "artifact": None},
        {**EDIT, "artifact": "../../x"},
        {**EDIT, "artifact": "a" * 64},
        {**EDIT, "supersedes": "e1"},
        {**EDIT, "alias_of": 5},
        {**EDIT, "retired_at": "2026-11-29"},
        {**EDIT, "expires_at": 5},
        {**EDIT, "expires_at": "9999-12-31T23:59:59-14:00"},
        {**EDIT, "retired_at": "0001-01-01T00:00:00+14:00"},
    ],
)
def test_other_edits_are_refused(edit: object) -> None:
    refused(sealed(members(edits=[edit])))


@pytest.mark.parametrize(
    "second", [{**EDIT, "sequence": 2}, {**EDIT, "origin": "e2"}, {**EDIT, "origin": "e2", "sequence": 0}]
)
def test_edits_out_of_order_or_twice_are_refused(second: dict[str, Any]) -> None:
    assert "out of order" in refused(sealed(members(edits=[EDIT, second])))


def test_lines_that_are_no_json_are_refused() -> None:
    for text in (b"{}{}\n", b"\xff\n", b"\n", b"[" * 100_000, b"NaN\n"):
        parts = members()
        parts[1] = ("edits.jsonl", text)
        refused(sealed(parts))


@pytest.mark.parametrize("data", [b"", b"x", b"0" * 64, b"0" * 65, b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    refused(BytesIO(data))
    refused(resealed(bytearray(data)))


def resealed(data: bytearray) -> BytesIO:
    """Return altered bytes with a seal that fits them."""
    file = BytesIO(bytes(data) if len(data) > len(PLACEHOLDER) else bytes(data) + PLACEHOLDER)
    seal(file)
    return file


def test_the_limits_are_those_that_are_told() -> None:
    text = (Path(__file__).parents[4] / "docs" / "reference" / "limits.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| a codebook's file |")]
    told = (
        f"{layout.MAX_FILE_BYTES // 1024**3} GiB",
        f"{layout.MAX_EDITS:,} edits",
        f"{layout.MAX_ARTIFACTS:,} artifacts",
        f"{layout.MAX_ARTIFACT_BYTES // 1024**2} MiB",
    )
    assert [number for number in told if number not in line] == []
