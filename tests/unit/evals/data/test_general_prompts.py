"""Files of general prompts."""

import json
from pathlib import Path

import pytest

from horen_vllm.errors import InvalidArgument
from horen_vllm.evals.data.general import GeneralPrompt, open_prompts
from tests.unit.evals.data.data_files import Fields, written


@pytest.mark.parametrize(
    ("row", "prompt", "answers"),
    [
        ({"prompt": "2 + 2?", "answer": "4"}, "2 + 2?", ("4",)),
        ({"question": "2 + 2?", "answers": ["4", "four", "4"]}, "2 + 2?", ("4", "four")),
        ({"instruction": "Add.", "output": 4}, "Add.", ("4",)),
        ({"turns": ["Hi", "And then?"]}, "Hi", ()),
        ({"turns": [{"content": "Hi"}]}, "Hi", ()),
        ({"prompt": "def f():\n    \n", "solution": "    return 1\n"}, "def f():\n    \n", ("    return 1\n",)),
    ],
)
def test_prompts_and_answers_as_they_stand(tmp_path: Path, row: Fields, prompt: str, answers: tuple[str, ...]) -> None:
    found = open_prompts(written(tmp_path, [{"id": "x", **row}]))
    assert found.prompts == (GeneralPrompt(prompt_id="x", line=1, prompt=prompt, answers=answers),)


def test_each_prompt_once_and_what_was_left_out(tmp_path: Path) -> None:
    rows: list[Fields] = [
        {"prompt": "Hi"},
        {"prompt": " "},
        {"prompt": "hi"},
        {"turns": [""]},
        {"prompt": "Ho", "category": 1},
    ]
    found = open_prompts(written(tmp_path, rows))
    assert [(it.prompt, it.prompt_id, it.line) for it in found.prompts] == [("Hi", "1", 1), ("Ho", "5", 5)]
    assert [(str(it.kind), it.count, it.examples[0]) for it in found.defects] == [
        ("empty_prompt", 2, "line 2: prompt"),
        ("empty_field", 1, "line 4: turns[0]"),
        ("duplicate_prompt", 1, "line 3: as line 1"),
        ("unused_field", 1, "category: 1"),
    ]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"text": "a"}, "missing_field"),
        ({"prompt": ["a"]}, "invalid_field"),
        ({"turns": "a"}, "invalid_field"),
        ({"turns": []}, "invalid_field"),
        ({"turns": [{"role": "user"}]}, "missing_field"),
        ({"prompt": "a", "answer": {}}, "invalid_field"),
        ({"prompt": ""}, "empty_dataset"),
    ],
)
def test_what_is_wrong(tmp_path: Path, row: Fields, code: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(InvalidArgument) as caught:
        open_prompts(path)
    assert caught.value.code == code
    assert str(path) in caught.value.message
