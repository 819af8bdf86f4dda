"""Defects: each is counted, shown with its line, and handled as documented."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horen_vllm.core.admission import normalise_prompt
from horen_vllm.evals.data.defects import HANDLING, MAX_EXAMPLES, DefectKind
from horen_vllm.evals.data.opening import open_dataset
from horen_vllm.evals.records import Case, ProbeKind
from tests.unit.evals.data.data_files import Fields, defect, kinds, opened, prompts

ROOT = Path(__file__).parents[4]


def edit(prompt: str, target: str, **more: object) -> Fields:
    return {"prompt": prompt, "target": target, **more}


def pairs(cases: tuple[Case, ...]) -> list[tuple[str, str]]:
    return [(case.prompt, case.target) for case in cases]


def test_every_kind_says_how_it_is_handled_and_is_documented() -> None:
    assert set(HANDLING) == set(DefectKind)
    page = (ROOT / "docs/reference/eval-data.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", page.partition("## Defects")[2], flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall("[a-z_]+", row)} == set(DefectKind)


def test_rows_without_a_prompt_or_target_are_left_out(tmp_path: Path) -> None:
    dataset = opened(tmp_path, edit("a", "b"), edit(" ", "b"), edit("c", ""), edit("d", "e"))
    assert pairs(dataset.cases) == [("a", "b"), ("d", "e")]
    assert dataset.rows == 4
    assert defect(dataset, "empty_prompt").examples == ("line 2: prompt",)
    assert defect(dataset, "empty_target").examples == ("line 3: target",)


def test_an_empty_alternative_of_mend_is_left_out(tmp_path: Path) -> None:
    rows = [{"src": "a", "alt": "", "answers": ["b"]}, {"src": "c", "alt": "d", "answers": [" "]}]
    dataset = opened(tmp_path, *rows)
    assert pairs(dataset.cases) == [("c", "d")]
    assert dataset.cases[0].target_true is None
    assert defect(dataset, "empty_field").examples == ("line 2: answers[0]",)
    assert kinds(opened(tmp_path, {"src": "a", "answers": []}, {"src": "c", "answers": "d"})) == ["empty_target"]


def test_other_empty_fields_are_not_there(tmp_path: Path) -> None:
    dataset = opened(tmp_path, edit("a", "b", subject=" ", rephrases=["", "c"], near=[{"prompt": ""}]))
    (case,) = dataset.cases
    assert (case.subject, case.rephrases, case.probes) == (None, ("c",), ())
    assert defect(dataset, "empty_field").examples == (
        "line 1: subject",
        "line 1: rephrases[0]",
        "line 1: near[0].prompt",
    )


def test_white_space_around_texts_is_taken_off(tmp_path: Path) -> None:
    dataset = opened(tmp_path, edit("a ", "\n b", rephrases=["c"]))
    assert pairs(dataset.cases) == [("a", "b")]
    assert defect(dataset, "outer_white_space").examples == ("line 1: prompt: 'a '", "line 1: target: '\\n b'")


def test_the_same_edit_again_gives_its_questions_to_the_first(tmp_path: Path) -> None:
    dataset = opened(
        tmp_path,
        edit("Who runs Acme?", "Ann", rephrases=["Acme's head?"], near=["Who runs Bolt?"]),
        edit("x", "y"),
        edit(
            "WHO  runs Acme?", "Ann", rephrases=["acme's head?", "Acme: who?"], near=["Who runs Bolt?", "Who runs C?"]
        ),
    )
    assert pairs(dataset.cases) == [("Who runs Acme?", "Ann"), ("x", "y")]
    assert dataset.cases[0].rephrases == ("Acme's head?", "Acme: who?")
    assert [prompt for prompt, _ in prompts(dataset.cases[0], ProbeKind.NEAR)] == ["Who runs Bolt?", "Who runs C?"]
    assert kinds(dataset) == ["duplicate_edit"]
    assert defect(dataset, "duplicate_edit").examples == ("line 3: as line 1",)


def test_of_contradictory_edits_the_first_is_kept(tmp_path: Path) -> None:
    rows = [edit("Who runs Acme?", "Ann"), edit("who runs acme?", "Bob"), edit("Who runs Acme?", "ann")]
    dataset = opened(tmp_path, *rows)
    assert pairs(dataset.cases) == [("Who runs Acme?", "Ann")]
    found = defect(dataset, "contradictory_edit")
    assert found.count == 2
    assert found.examples[0] == "line 2: 'Bob' after 'Ann': 'who runs acme?'"
    assert "the first is kept" in found.handling


def test_contradictory_edits_are_kept_when_asked_for(tmp_path: Path) -> None:
    rows = [edit("a", "1"), edit("a", "2"), edit("a", "1"), edit("a", "2")]
    dataset = opened(tmp_path, *rows, keep_contradictory=True)
    assert pairs(dataset.cases) == [("a", "1"), ("a", "2")]
    assert defect(dataset, "contradictory_edit").count == 1
    assert "all are kept" in defect(dataset, "contradictory_edit").handling
    assert defect(dataset, "duplicate_edit").count == 2


def test_ids_that_come_again_get_their_line(tmp_path: Path) -> None:
    dataset = opened(tmp_path, edit("a", "1", id="x"), edit("b", "2", id="x"), edit("c", "3", id=4))
    assert [case.case_id for case in dataset.cases] == ["x", "x@2", "4"]
    assert defect(dataset, "duplicate_id").examples == ("line 2: x",)


@pytest.mark.parametrize(
    ("subject", "prompt", "is_there"),
    [
        ("Łódź  Kaliska", "Where is łódź kaliska?", True),
        ("O'Neil, Ann", "Where does Ann O'Neil live?", False),
        ("O'Neil", "Where does O\u2019Neil live?", True),
        ("Beyonce", "Where does Beyoncé live?", True),
        ("Acme", "Who runs Bolt?", False),
    ],
)
def test_a_subject_that_is_not_in_the_prompt(tmp_path: Path, subject: str, prompt: str, *, is_there: bool) -> None:
    dataset = opened(tmp_path, edit(prompt, "b", subject=subject))
    assert dataset.cases[0].subject == (subject if is_there else None)
    assert kinds(dataset) == ([] if is_there else ["subject_not_in_prompt"])


def test_rephrases_that_test_nothing_are_left_out(tmp_path: Path) -> None:
    dataset = opened(
        tmp_path,
        edit("a", "1", rephrases=["A", "b", "B", "c"]),
        edit("c", "1"),
        edit("d", "2", rephrases=["e"]),
        edit("f", "3", rephrases=["e", "a"]),
    )
    assert [case.rephrases for case in dataset.cases] == [("b",), (), (), ()]
    assert defect(dataset, "rephrase_is_prompt").examples == ("line 1: 'A'",)
    assert defect(dataset, "duplicate_rephrase").examples == ("line 1: 'B'",)
    assert defect(dataset, "rephrase_is_other_edit").examples == ("line 1: 'c'",)
    assert defect(dataset, "contradictory_rephrase").examples == ("line 3: 'e'", "line 4: 'e'", "line 4: 'a'")


def test_the_same_question_of_a_case_is_asked_once_with_all_answers(tmp_path: Path) -> None:
    near = [{"prompt": "b", "target": "1"}, {"prompt": "B", "target": "2"}]
    dataset = opened(tmp_path, edit("a", "1", near=near, persona=["b"]))
    assert prompts(dataset.cases[0], ProbeKind.NEAR) == [("b", ("1", "2"))]
    assert prompts(dataset.cases[0], ProbeKind.PERSONA) == [("b", ())]
    assert defect(dataset, "duplicate_probe").count == 1


def test_negatives_that_are_an_edit(tmp_path: Path) -> None:
    dataset = opened(tmp_path, edit("a", "1", rephrases=["b"], near=["A", "b", "c"], persona=["a"]), edit("c", "2"))
    assert prompts(dataset.cases[0], ProbeKind.NEAR) == [("c", ())]
    assert prompts(dataset.cases[0], ProbeKind.PERSONA) == [("a", ())]
    assert defect(dataset, "negative_is_own_edit").count == 2
    assert defect(dataset, "negative_is_other_edit").examples == ("line 1: 'c'",)


def mquake(*edits: tuple[str, str], question: str, facts: tuple[tuple[str, str], ...] = ()) -> Fields:
    return {
        "requested_rewrite": [
            {"question": prompt, "prompt": f"{prompt} is", "subject": prompt, "target_new": {"str": target}}
            for prompt, target in edits
        ],
        "questions": [question],
        "new_answer": "x",
        "new_single_hops": [
            {"question": prompt, "answer": f"Not {target}", "answer_alias": [target]} for prompt, target in facts
        ],
    }


def test_questions_of_a_row_go_to_the_last_of_its_edits_in_the_stream(tmp_path: Path) -> None:
    dataset = opened(
        tmp_path,
        mquake(("a", "1"), ("b", "2"), question="first"),
        mquake(("c", "3"), ("a", "1"), question="second"),
        mquake(("a", "1"), question="third"),
    )
    assert [(case.prompt, [probe.prompt for probe in case.probes]) for case in dataset.cases] == [
        ("a", ["third"]),
        ("b", ["first"]),
        ("c", ["second"]),
    ]


def test_questions_that_need_an_edit_that_was_left_out_are_left_out(tmp_path: Path) -> None:
    dataset = opened(tmp_path, mquake(("a", "1"), question="q"), mquake(("b", "2"), ("a", "3"), question="lost"))
    assert [(case.prompt, len(case.probes)) for case in dataset.cases] == [("a", 1), ("b", 0)]
    assert defect(dataset, "lost_probes").examples == ("line 2: lost",)


def test_questions_whose_facts_another_edit_changes_are_left_out(tmp_path: Path) -> None:
    dataset = opened(
        tmp_path,
        mquake(("a", "1"), question="holds", facts=(("a", "1"), ("z", "26"))),
        mquake(("b", "2"), question="falls", facts=(("b", "2"), ("a", "7"))),
    )
    assert [[probe.prompt for probe in case.probes] for case in dataset.cases] == [["holds"], []]
    assert defect(dataset, "contradicted_hop").examples == ("line 2: 'falls'",)


def test_there_are_few_examples_and_all_are_counted(tmp_path: Path) -> None:
    dataset = opened(tmp_path, edit("a", "b"), *(edit("a", "b") for _ in range(9)))
    assert (defect(dataset, "duplicate_edit").count, len(defect(dataset, "duplicate_edit").examples)) == (
        9,
        MAX_EXAMPLES,
    )


def test_fields_that_nothing_reads_are_named(tmp_path: Path) -> None:
    near = [{"prompt": "c", "tip": 1}, {"prompt": "d", "tip": 2}]
    dataset = opened(tmp_path, edit("a", "b", rephrased="c", near=near), edit("e", "f", rephrased="g", none=None))
    assert defect(dataset, "unused_field").examples == ("near.tip: 2", "rephrased: 2")


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
def test_a_limit_counts_cases_that_are_kept(tmp_path: Path, limit: int) -> None:
    rows = [edit("a", "1"), edit("a", "1"), edit("", "1"), edit("a", "2"), edit("b", "1", near=["c"]), edit("c", "1")]
    dataset = opened(tmp_path, *rows, limit=limit)
    assert [case.prompt for case in dataset.cases] == ["a", "b", "c"][:limit]
    assert ("negative_is_other_edit" in kinds(dataset)) == (limit >= 3)


def test_a_limit_within_a_row_leaves_out_what_needs_all_of_it(tmp_path: Path) -> None:
    row = mquake(("a", "1"), ("b", "2"), question="q")
    (case,) = opened(tmp_path, row, limit=1).cases
    assert (case.prompt, case.probes) == ("a", ())


def test_a_row_that_is_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(edit("a", "b")) + "\nnot json")
    assert len(open_dataset(path, limit=1).cases) == 1


WORDS = st.sampled_from(["a", "A", "b", "c", " a", "d  e", "D e"])


@given(
    rows=st.lists(
        st.tuples(WORDS, WORDS, st.lists(WORDS, max_size=3), st.lists(WORDS, max_size=3)), min_size=1, max_size=8
    )
)
def test_a_stream_has_each_prompt_once_and_asks_nothing_that_has_two_answers(
    rows: list[tuple[str, str, list[str], list[str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "defects.jsonl"
    path.write_text("\n".join(json.dumps(edit(p, t, rephrases=r, near=n)) for p, t, r, n in rows))
    dataset = open_dataset(path)
    texts = [normalise_prompt(case.prompt) for case in dataset.cases]
    assert len(set(texts)) == len(texts)
    assert len({case.case_id for case in dataset.cases}) == len(dataset.cases)
    counts = {str(found.kind): found.count for found in dataset.defects}
    left_out = counts.get("duplicate_edit", 0) + counts.get("contradictory_edit", 0)
    assert len(dataset.cases) + left_out == len(rows)
    owner = dict(zip(texts, dataset.cases, strict=True))
    for case in dataset.cases:
        for rephrase in case.rephrases:
            assert normalise_prompt(rephrase) not in owner
            others = (it for it in dataset.cases if rephrase in it.rephrases)
            assert {it.target for it in others} == {case.target}
        own = {normalise_prompt(text) for text in (case.prompt, *case.rephrases)}
        assert all(normalise_prompt(probe.prompt) not in own for probe in case.probes)
