"""Background prompts: the built-in ones keep their promises, and a bad file is refused with the place named."""

import json
from collections import Counter
from pathlib import Path

import pytest

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.editor.calibration.background import (
    MIN_PROMPTS,
    BackgroundPrompt,
    builtin_background,
    check_background,
    load_background,
)
from horen_vllm.errors import InvalidArgument


@pytest.fixture(scope="module")
def builtin() -> tuple[BackgroundPrompt, ...]:
    return builtin_background()


def written(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "background.jsonl"
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InvalidArgument) as caught:
        load_background(path)
    assert caught.value.code == "invalid_background"
    assert str(path) in caught.value.message
    return caught.value.message


def test_builtin_is_the_same_every_time(builtin: tuple[BackgroundPrompt, ...]) -> None:
    assert builtin_background() == builtin


def test_builtin_is_distinct_and_large(builtin: tuple[BackgroundPrompt, ...]) -> None:
    assert 2500 <= len({normalise_prompt(entry.prompt) for entry in builtin}) == len(builtin) <= 4000
    check_background(builtin)


def test_builtin_wordings_name_the_subject_and_differ(builtin: tuple[BackgroundPrompt, ...]) -> None:
    for entry in builtin:
        wordings = (entry.prompt, *entry.rephrases)
        assert all("{" not in wording for wording in wordings if entry.subject)
        assert len({normalise_prompt(wording) for wording in wordings}) == len(wordings)
        if entry.subject is None:
            assert entry.relation is None
            assert not entry.rephrases
        else:
            assert entry.relation is not None
            assert 2 <= len(entry.rephrases) <= 4
            assert all(entry.subject in wording for wording in wordings)


def test_no_builtin_relation_dominates(builtin: tuple[BackgroundPrompt, ...]) -> None:
    counts = Counter(entry.relation for entry in builtin)
    others = counts.pop(None)
    assert others >= 300
    assert len(counts) >= 60
    assert max(counts.values()) <= 0.03 * len(builtin)


def test_builtin_beginning_is_a_sample(builtin: tuple[BackgroundPrompt, ...]) -> None:
    beginning = builtin[:MIN_PROMPTS]
    check_background(beginning)
    assert len({entry.relation for entry in beginning}) > 90
    share = sum(entry.subject is None for entry in builtin) / len(builtin)
    assert sum(entry.subject is None for entry in beginning) / len(beginning) == pytest.approx(share, abs=0.05)


def test_file_is_read_in_order(tmp_path: Path) -> None:
    fields = {"subject": "ACME", "relation": "founder", "rephrase": "Acme's founder?", "rephrases": ["Acme, by?"]}
    path = written(
        tmp_path,
        json.dumps({"prompt": "Who founded Acme?", "answer": "nobody", **fields}) + "\r",
        "",
        '{"prompt": "Hello", "subject": null, "relation": null, "rephrase": null}',
        "",
    )
    assert load_background(path) == (
        BackgroundPrompt("Who founded Acme?", "ACME", "founder", ("Acme's founder?", "Acme, by?")),
        BackgroundPrompt("Hello"),
    )


def test_first_of_equal_prompts_and_rephrases_is_kept(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '{"prompt": "One two", "rephrase": "Three", "rephrases": ["one  TWO", "Four", "THREE"]}',
        '{"prompt": "ONE  two ", "relation": "later"}',
    )
    assert load_background(path) == (BackgroundPrompt("One two", rephrases=("Three", "Four")),)


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = written(tmp_path, b'\xef\xbb\xbf{"prompt": "Hello"}')
    assert load_background(path) == (BackgroundPrompt("Hello"),)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_lines_end_with_newline_only(tmp_path: Path, separator: str) -> None:
    prompt = f"One{separator}two"
    path = written(tmp_path, json.dumps({"prompt": prompt}, ensure_ascii=False), '{"prompt": "Three"}')
    assert [entry.prompt for entry in load_background(path)] == [prompt, "Three"]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{}", "prompt"),
        ('{"prompt": null}', "prompt"),
        ('{"prompt": " "}', "prompt"),
        ('{"prompt": 3}', "prompt"),
        ('{"prompt": "half \\ud800"}', "prompt"),
        ('{"prompt": "a b", "subject": "c"}', "subject"),
        ('{"prompt": "a b", "subject": ""}', "subject"),
        ('{"prompt": "a b", "subject": ["a"]}', "subject"),
        ('{"prompt": "a b", "relation": 1}', "relation"),
        ('{"prompt": "a b", "rephrase": ["c"]}', "rephrase"),
        ('{"prompt": "a b", "rephrases": "c"}', "rephrases"),
        ('{"prompt": "a b", "rephrases": null}', "rephrases"),
        ('{"prompt": "a b", "rephrases": ["c", 4]}', "rephrases"),
    ],
)
def test_bad_field_is_named(tmp_path: Path, line: str, field: str) -> None:
    message = refusal(written(tmp_path, '{"prompt": "fine"}', "", line))
    assert f"line 3: field '{field}'" in message


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("prompt: a", "not JSON"),
        (b'{"prompt": "\xff"}', "not JSON in UTF-8"),
        ('"a"', "not a JSON object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str | bytes, fault: str) -> None:
    assert f"line 2: {fault}" in refusal(written(tmp_path, '{"prompt": "fine"}', line))


def test_missing_file_is_said(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.jsonl")


def test_too_few_are_refused() -> None:
    prompts = [BackgroundPrompt(f"Prompt {number}") for number in range(MIN_PROMPTS)]
    check_background(prompts)
    with pytest.raises(InvalidArgument, match=r"299 distinct .* at least 300") as caught:
        check_background([*prompts[1:], BackgroundPrompt("PROMPT  1")])
    assert caught.value.code == "too_few_background_prompts"
