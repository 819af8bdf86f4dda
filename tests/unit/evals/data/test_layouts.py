"""Each layout: the fields as published, what they become, and which of them is found."""

import json
from pathlib import Path
from typing import Any

import pytest

from horen_vllm.evals.data.dataset import Dataset
from horen_vllm.evals.data.opening import LAYOUTS, open_dataset
from horen_vllm.evals.records import ProbeKind
from tests.unit.evals.data.data_files import Fields, defect, kinds, opened, prompts
from tests.unit.evals.data.published_rows import (
    COUNTERFACT,
    EASYEDIT,
    FLAT,
    KILT,
    KNOWEDIT,
    MEND,
    MQUAKE,
    NORMALISED,
    PLAIN,
    UNKE,
    WIKIBIGEDIT,
)


@pytest.mark.parametrize(
    ("layout", "row"),
    [
        ("mend", MEND),
        ("kilt", KILT),
        ("counterfact", COUNTERFACT),
        ("wikibigedit", WIKIBIGEDIT),
        ("unke", UNKE),
        ("mquake", MQUAKE),
        ("knowedit", KNOWEDIT),
        ("knowedit", {"text": "Ann Ray is", "labels": "a judge.", "concept": "Ann Ray"}),
        ("easyedit", EASYEDIT),
        ("easyedit", FLAT),
        ("normalised", NORMALISED),
        ("jsonl", PLAIN),
        ("jsonl", {"prompt": "p", "target": "t", "portability": ["What of p?"]}),
        ("horen", {name: value for name, value in MEND.items() if name != "alt"}),
    ],
)
def test_the_layout_is_found_from_the_first_row(tmp_path: Path, layout: str, row: Fields) -> None:
    assert opened(tmp_path, row).layout == layout


def test_every_layout_reads_the_same_when_it_is_named(tmp_path: Path) -> None:
    rows = [UNKE, COUNTERFACT, MQUAKE, MEND, MEND, KILT, WIKIBIGEDIT, KNOWEDIT, EASYEDIT, NORMALISED, PLAIN]
    for layout, row in zip(LAYOUTS, rows, strict=True):
        named = opened(tmp_path, row, layout=layout.name)
        assert named.layout == layout.name
        if layout.name != "horen":
            assert named == opened(tmp_path, row)


def test_mend_edits_in_the_alternative(tmp_path: Path) -> None:
    dataset = opened(tmp_path, MEND)
    (case,) = dataset.cases
    assert (case.prompt, case.target, case.target_true) == (MEND["src"], "Loire", "Rhone")
    assert case.subject == "Lyon"
    assert case.rephrases == ("What river passes Lyon?",)
    assert prompts(case, ProbeKind.UNRELATED) == [("nq question: who wrote hamlet", ("Shakespeare",))]
    assert defect(dataset, "unused_field").examples == ("cond: 1", "pred: 1")


def test_horen_edits_in_the_true_answer(tmp_path: Path) -> None:
    (case,) = opened(tmp_path, MEND, layout="horen").cases
    assert (case.target, case.target_true) == ("Rhone", None)


def test_portability_that_easyedit_added_to_mend(tmp_path: Path) -> None:
    more = {**MEND, "portability": {"New Question": "Is it long?", "New Answer": "yes", "Recalled Relation": "(a, b)"}}
    (case,) = opened(tmp_path, more).cases
    assert prompts(case, ProbeKind.PORTABILITY) == [("Is it long?", ("yes",))]


def test_the_folder_of_the_released_code_pairs_edits_with_prompts_of_the_other_file(tmp_path: Path) -> None:
    other = {**MEND, "src": "Which river flows through Bonn?", "rephrase": "Bonn's river?", "subject": "Bonn"}
    (tmp_path / "zsre_edit_data.json").write_text(json.dumps([MEND, other]))
    train: list[Fields] = [{"loc": "first", "loc_ans": "1"}, {"loc": "second", "loc_ans": "2"}, {"loc": "third"}]
    (tmp_path / "zsre_train_data.json").write_text(json.dumps(train))
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "horen"
    assert [prompts(case, ProbeKind.UNRELATED) for case in dataset.cases] == [
        [("first", ("1",))],
        [("second", ("2",))],
    ]
    first_hash = dataset.sha256
    (tmp_path / "zsre_train_data.json").write_text(json.dumps([*train, {"loc": "fourth"}]))
    assert open_dataset(tmp_path).sha256 != first_hash


def test_mends_own_release(tmp_path: Path) -> None:
    (case,) = opened(tmp_path, KILT).cases
    assert (case.case_id, case.target, case.target_true, case.subject) == ("z1", "Loire", "Rhone", "Lyon")
    assert case.rephrases == ("What river passes Lyon?", "Lyon's river?")


def test_the_page_is_no_subject_where_the_question_does_not_name_it(tmp_path: Path) -> None:
    output = [{"answer": "Rhone", "provenance": [{"title": "Rivers of France"}]}]
    dataset = opened(tmp_path, {**KILT, "output": output})
    assert dataset.cases[0].subject is None
    assert "subject_not_in_prompt" not in kinds(dataset)


def test_counterfact(tmp_path: Path) -> None:
    dataset = opened(tmp_path, COUNTERFACT)
    (case,) = dataset.cases
    assert (case.case_id, case.prompt) == ("7", "The mother tongue of Ann Ray is")
    assert (case.target, case.target_true) == ("English", "French")
    assert prompts(case, ProbeKind.NEAR) == [
        ("The mother tongue of Leon Blum is", ("French",)),
        ("The mother tongue of Doe is", ("English",)),
    ]
    assert prompts(case, ProbeKind.SAME_SUBJECT) == [("Ann Ray's city is", ("French",))]
    assert defect(dataset, "unused_field").examples == (
        "generation_prompts: 1",
        "pararel_idx: 1",
        "requested_rewrite.relation_id: 1",
    )


def test_wikibigedit(tmp_path: Path) -> None:
    (case,) = opened(tmp_path, WIKIBIGEDIT).cases
    assert (case.prompt, case.target, case.rephrases) == (WIKIBIGEDIT["update"], "Ray", (WIKIBIGEDIT["rephrase"],))
    assert prompts(case, ProbeKind.NEAR) == [("What is the family name of Thomas Roe?", ("Roe",))]
    assert prompts(case, ProbeKind.PERSONA) == [(WIKIBIGEDIT["personas"], ("Ray",))]
    assert prompts(case, ProbeKind.MULTI_HOP) == [(WIKIBIGEDIT["mhop"], ("French",))]


def test_what_a_table_has_not_is_not_there(tmp_path: Path) -> None:
    text = json.dumps({**WIKIBIGEDIT, "mhop": float("nan"), "mhop_ans": None})
    path = tmp_path / "wiki.json"
    path.write_text(f"[{text}]")
    (case,) = open_dataset(path).cases
    assert prompts(case, ProbeKind.MULTI_HOP) == []


@pytest.mark.parametrize(
    "names", [("sub_question", "sub_answer", "para_question"), ("sub_questions", "sub_answers", "paraphrase")]
)
def test_unke(tmp_path: Path, names: tuple[str, str, str]) -> None:
    published = ("sub_question", "sub_answer", "para_question")
    row: dict[str, Any] = {name: value for name, value in UNKE.items() if name not in published}
    row |= {name: UNKE[known] for name, known in zip(names, published, strict=True)}
    (case,) = opened(tmp_path, row).cases
    assert (case.case_id, case.prompt, case.target) == ("3", UNKE["question"], UNKE["answer"])
    assert case.rephrases == ("What is George's work?",)
    assert prompts(case, ProbeKind.SUB_QUESTION) == [("Where is he?", ("In politics.",)), ("How long?", ("Years.",))]


def test_questions_without_an_answer_are_kept_and_counted(tmp_path: Path) -> None:
    dataset = opened(tmp_path, {**UNKE, "sub_answer": ["In politics."]})
    assert prompts(dataset.cases[0], ProbeKind.SUB_QUESTION)[1] == ("How long?", ())
    assert defect(dataset, "unpaired_answer").examples == ("line 1: 2 sub_question, 1 sub_answer",)


def test_each_edit_of_a_mquake_row_is_a_case_and_the_last_has_the_questions(tmp_path: Path) -> None:
    first, last = opened(tmp_path, MQUAKE).cases
    assert (first.case_id, first.prompt, first.target, first.target_true) == (
        "5.1",
        "What is the country of citizenship of Ellie?",
        "Croatia",
        "USA",
    )
    assert first.rephrases == ("Ellie is a citizen of",)
    assert first.probes == ()
    assert (last.case_id, last.subject, last.target) == ("5.2", "Croatia", "Max Roe")
    assert prompts(last, ProbeKind.MULTI_HOP) == [(text, ("Max Roe", "M. Roe")) for text in MQUAKE["questions"]]


def test_normalised_multi_hop_rows_have_their_edits_in_a_list(tmp_path: Path) -> None:
    edits = [
        {"subject": "Ellie", "prompt": "Ellie is a citizen of", "question": "Ellie's country?", "target": "Croatia"},
        {"subject": "Croatia", "prompt": "The head of Croatia is", "question": "Croatia's head?", "target": "Max Roe"},
    ]
    row = {"id": "m", "prompt": "Ellie's country?", "target": "Croatia", "mhop": ["Who?"], "mhop_target": "Max Roe"}
    first, last = opened(tmp_path, {**row, "edits": edits}).cases
    assert [first.case_id, last.case_id] == ["m.1", "m.2"]
    assert first.probes == ()
    assert prompts(last, ProbeKind.MULTI_HOP) == [("Who?", ("Max Roe",))]
    (alone,) = opened(tmp_path, {**row, "edits": edits[:1]}).cases
    assert alone.case_id == "m"
    assert prompts(alone, ProbeKind.MULTI_HOP) == [("Who?", ("Max Roe",))]


def test_knowedit(tmp_path: Path) -> None:
    (case,) = opened(tmp_path, KNOWEDIT).cases
    assert (case.target, case.target_true, case.rephrases) == ("Berlin", "Paris", ("Leo Arons died in",))
    assert prompts(case, ProbeKind.SAME_SUBJECT) == [
        ("The father of Leo Arons is", ("Albert", "A. Arons")),
        ("A city of his, not Berlin, is", ("Bonn",)),
    ]
    assert prompts(case, ProbeKind.PORTABILITY) == [
        ("The country where Leo Arons died is", ("Germany", "Deutschland")),
        ("The place of death of M. L. Arons is", ("Berlin",)),
    ]


def test_easyedit_with_sections_of_parallel_lists(tmp_path: Path) -> None:
    (case,) = opened(tmp_path, EASYEDIT).cases
    assert (case.target, case.target_true, case.rephrases) == ("violin", "piano", ("Ray Charles plays the",))
    assert prompts(case, ProbeKind.UNRELATED) == [
        ("Joseph Fischhof, the", ("piano",)),
        ("Larry Bird is a", ("player",)),
    ]
    assert prompts(case, ProbeKind.PORTABILITY) == [("Ray Charles made what?", ("violin",))]


def test_easyedit_with_flat_fields(tmp_path: Path) -> None:
    (case,) = opened(tmp_path, FLAT).cases
    assert prompts(case, ProbeKind.UNRELATED) == [("nq question: who wrote hamlet", ("Shakespeare",))]
    assert prompts(case, ProbeKind.PORTABILITY) == [("Ray Charles made what?", ("violin",))]


def test_normalised(tmp_path: Path) -> None:
    dataset = opened(tmp_path, NORMALISED, name="zsre")
    (case,) = dataset.cases
    assert (case.case_id, case.prompt, case.target, case.target_true) == ("n1", NORMALISED["prompt"], "Loire", "Rhone")
    assert prompts(case, ProbeKind.UNRELATED) == [("who wrote hamlet", ("Shakespeare",))]
    assert prompts(case, ProbeKind.NEAR) == [("Which river flows through Bonn?", ("Rhine",))]
    assert prompts(case, ProbeKind.PORTABILITY) == [("Is Lyon's river long?", ("yes", "it is"))]
    assert prompts(case, ProbeKind.PERSONA) == [("Oi, the river of Lyon?", ("Loire",))]
    assert prompts(case, ProbeKind.MULTI_HOP) == [(NORMALISED["mhop"][0], ("Atlantic", "Atlantic Ocean"))]
    assert dataset.defects == ()


def test_a_locality_prompt_that_is_in_the_list_of_all_is_asked_once(tmp_path: Path) -> None:
    everything = [
        {"type": "Relation_Specificity", "prompt": "Its mayor is", "target": "Ann"},
        {"type": "Other", "prompt": "who wrote hamlet", "target": [["Shakespeare"]]},
    ]
    dataset = opened(tmp_path, {**NORMALISED, "locality_all": everything})
    assert prompts(dataset.cases[0], ProbeKind.SAME_SUBJECT) == [("Its mayor is", ("Ann",))]
    assert prompts(dataset.cases[0], ProbeKind.UNRELATED) == [("who wrote hamlet", ("Shakespeare",))]
    assert dataset.defects == ()


def test_plain(tmp_path: Path) -> None:
    dataset = opened(tmp_path, PLAIN)
    (case,) = dataset.cases
    assert case.rephrases == ("Who runs Acme?", "Acme's CEO?")
    assert prompts(case, ProbeKind.NEAR) == [("Who is the CEO of Bolt?", ("Max Roe",))]
    assert prompts(case, ProbeKind.UNRELATED) == [("what is two plus two", ())]
    assert prompts(case, ProbeKind.MULTI_HOP) == [("Where was the CEO of Acme born?", ("Oslo", "Kristiania"))]
    assert dataset.defects == ()


@pytest.mark.parametrize(
    ("name", "prompt", "kind"),
    [
        ("zsre", "who wrote hamlet", ProbeKind.UNRELATED),
        ("zsre", "how old is LYON?", ProbeKind.SAME_SUBJECT),
        ("zsre", "what do lyonesse and lyonnaise mean", ProbeKind.UNRELATED),
        ("counterfact", "The river of Bonn is", ProbeKind.NEAR),
        ("wikibigedit", "The river of Bonn is", ProbeKind.NEAR),
        ("wikifactdiff", "The river of Lyon is", ProbeKind.SAME_SUBJECT),
        ("my-own", "The river of Bonn is", ProbeKind.UNRELATED),
    ],
)
def test_what_a_locality_prompt_is(tmp_path: Path, name: str, prompt: str, kind: ProbeKind) -> None:
    row = {**NORMALISED, "near_prompt": None, "locality_prompt": prompt}
    (case,) = opened(tmp_path, row, name=name).cases
    assert [probe.prompt for probe in case.probes if probe.kind is kind] == [prompt]


def test_a_data_set_is_known_by_its_file_or_folder(tmp_path: Path) -> None:
    def kind_of(dataset: Dataset) -> ProbeKind:
        return next(probe.kind for probe in dataset.cases[0].probes if probe.prompt == "who wrote hamlet")

    path = tmp_path / "wikibigedit" / "edits.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(NORMALISED))
    dataset = open_dataset(path)
    assert dataset.name == "wikibigedit/edits"
    assert kind_of(dataset) is ProbeKind.NEAR
    assert kind_of(open_dataset(path.rename(tmp_path / "wikibigedit" / "zsre.jsonl"))) is ProbeKind.UNRELATED
