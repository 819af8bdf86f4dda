"""Files: JSON lines and arrays, and errors that say where."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.data.opening import open_dataset
from tests.unit.evals.data.data_files import Fields, opened, written

GOOD: Fields = {"prompt": "Who runs Acme?", "target": "Ann"}


def refused(path: Path, **options: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        open_dataset(path, **options)
    return caught.value


def test_lines_end_in_a_line_feed_alone(tmp_path: Path) -> None:
    odd = "Who runs\u2028Acme\u0085 or\u000bBolt?"
    dataset = opened(tmp_path, {**GOOD, "prompt": odd}, GOOD)
    assert [(case.line, case.prompt) for case in dataset.cases] == [(1, odd), (2, "Who runs Acme?")]


def test_empty_lines_and_carriage_returns_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\r\n" + json.dumps(GOOD).encode() + b"\r\n\n" + json.dumps({**GOOD, "prompt": "b"}).encode())
    dataset = open_dataset(path)
    assert [case.line for case in dataset.cases] == [2, 4]
    assert dataset.rows == 2


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_an_array_is_numbered_by_its_rows(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "data.json"
    content = mark + json.dumps([GOOD, {**GOOD, "prompt": "b"}], indent=1).encode()
    path.write_bytes(content)
    dataset = open_dataset(path)
    assert [(case.case_id, case.line) for case in dataset.cases] == [("1", 1), ("2", 2)]
    assert dataset.sha256 == hashlib.sha256(content).hexdigest()


def test_a_byte_order_mark_before_lines_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert open_dataset(path).cases[0].prompt == "Who runs Acme?"


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'{"prompt": "a", "target": "b"}\n{"prompt": ', "line 2 is not JSON"),
        (b'{"prompt": "a", "target": "b"}\n["a"]', "line 2 is not a JSON object"),
        (b'{"prompt": "a", "target": "b"}\n{"prompt": "\xff"}', "line 2: byte 13 is not UTF-8"),
        (b'{"prompt": "a", "target": "b", "score": Infinity}', "line 1 is not JSON: Infinity"),
        (b'[{"prompt": "a", "target": "b"}, 3]', "row 2 is not a JSON object"),
        (b'[{"prompt": "a"', "is not JSON"),
        (b'{"a":' + b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_what_is_not_json_is_told_with_its_line(tmp_path: Path, content: bytes, where: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    error = refused(path)
    assert error.code == "invalid_line"
    assert str(path) in error.message
    assert where in error.message


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        ({"prompt": "b"}, "missing_field", "'target'"),
        ({"prompt": "b", "target": None}, "missing_field", "'target'"),
        ({"prompt": ["b"], "target": "c"}, "invalid_field", "'prompt' is not a text: ['b']"),
        ({"prompt": "b", "target": 3}, "invalid_field", "'target' is not a text: 3"),
        ({"prompt": "b", "target": "c", "subject": {}}, "invalid_field", "'subject' is not a text"),
        ({"prompt": "b", "target": "c", "rephrases": ["d", {"e": 1}]}, "invalid_field", "'rephrases[1]' is not a text"),
        ({"prompt": "b", "target": "c", "near": ["d", {"e": 1}]}, "invalid_field", "'near[0]' is not a JSON object"),
        ({"prompt": "b", "target": "c", "near": [{"prompt": 1}]}, "invalid_field", "'near[0].prompt' is not a text: 1"),
        ({"prompt": "a\0b", "target": "c"}, "invalid_text", "'prompt'"),
        ({"prompt": "b", "target": "\ud800"}, "invalid_text", "'target'"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_file_line_and_field(
    tmp_path: Path, row: Fields, code: str, field: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(it) for it in ({"prompt": "a", "target": "b"}, row)))
    error = refused(path)
    assert error.code == code
    assert f"{path}, line 2" in error.message
    assert field in error.message


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"requested_rewrite": {"subject": "x", "prompt": "{} is"}}, "'requested_rewrite.target_new'"),
        ({"requested_rewrite": [{"subject": "x", "target_new": {"str": "y"}}]}, "'requested_rewrite[0].question'"),
        (
            {"requested_rewrite": [{"question": "x", "target_new": {"id": "y"}}]},
            "'requested_rewrite[0].target_new.str'",
        ),
        ({"input": "x", "alternatives": None}, "'alternatives'"),
    ],
)
def test_a_field_that_is_missing_inside_is_told_by_its_path(tmp_path: Path, row: Fields, field: str) -> None:
    error = refused(written(tmp_path, [row]))
    assert error.code == "missing_field"
    assert field in error.message


def test_a_mquake_row_without_an_edit(tmp_path: Path) -> None:
    error = refused(written(tmp_path, [{"requested_rewrite": []}]))
    assert (error.code, "line 1" in error.message) == ("invalid_field", True)


def test_a_row_that_is_not_of_the_layout(tmp_path: Path) -> None:
    error = refused(written(tmp_path, [GOOD]), layout="counterfact")
    assert (error.code, "'requested_rewrite'" in error.message) == ("missing_field", True)


def test_no_layout_fits(tmp_path: Path) -> None:
    error = refused(written(tmp_path, [{"query": "a", "reply": "b"}]))
    assert error.code == "unknown_layout"
    assert "'query', 'reply'" in error.message
    assert "counterfact: requested_rewrite" in error.message


def test_no_layout_has_that_name(tmp_path: Path) -> None:
    error = refused(written(tmp_path, [GOOD]), layout="csv")
    assert error.code == "unknown_layout"
    assert re.search("counterfact, .*unke, wikibigedit", error.message)


@pytest.mark.parametrize("content", ["", "\n\n", "[]", '{"prompt": " ", "target": "b"}'])
def test_no_edits(tmp_path: Path, content: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    assert refused(path).code == "empty_dataset"


def test_no_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.jsonl").code == "file_unreadable"
    assert refused(tmp_path).code == "file_unreadable"


def test_a_folder_whose_second_file_is_shorter(tmp_path: Path) -> None:
    edits = [{"src": "a", "answers": ["b"]}, {"src": "c", "answers": ["d"]}]
    (tmp_path / "zsre_edit_data.json").write_text(json.dumps(edits))
    (tmp_path / "zsre_train_data.json").write_text(json.dumps([{"loc": "e", "loc_ans": "f"}]))
    error = refused(tmp_path)
    assert (error.code, "zsre_train_data.json has no row 2" in error.message) == ("missing_field", True)


NAMES = st.sampled_from(
    [
        "id",
        "prompt",
        "target",
        "target_new",
        "subject",
        "rephrase",
        "rephrases",
        "locality_prompt",
        "locality_all",
        "portability",
        "edits",
        "mhop",
        "near",
        "question",
        "answer",
        "sub_question",
        "requested_rewrite",
        "src",
        "alt",
        "answers",
        "loc",
        "input",
        "alternatives",
        "output",
        "update",
        "ans",
        "text",
        "labels",
        "locality",
        "ground_truth",
        "str",
        "new_single_hops",
        "type",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(rows=st.lists(st.dictionaries(NAMES, JSON, min_size=1, max_size=8), min_size=1, max_size=4))
def test_whatever_rows_there_are_they_are_read_or_refused_with_a_code(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    codes = {"invalid_line", "missing_field", "invalid_field", "invalid_text", "unknown_layout", "empty_dataset"}
    try:
        dataset = open_dataset(path)
    except InvalidArgument as error:
        assert error.code in codes  # noqa: PT017
    else:
        assert all(case.prompt.strip() and case.target.strip() for case in dataset.cases)
        assert dataset.rows <= len(rows)
