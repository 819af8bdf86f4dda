"""The ablations in miniature: every section on random features, and what it calls recall and false fires."""

import random
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench.ablation_data import draw
from bench.ablation_features import BASE, CHAT, LAST, MASKED, PAPER, PERCENTS, PLAIN, Extractor, Features, Kind
from bench.ablation_keyer import BACKGROUND, Keyer
from bench.ablation_scores import Count, Routing, Scores, auc, euclid, limit_at, measure, pooled, product
from bench.ablation_sections import SECTIONS
from bench.ablations import measure_draw, together, write_all
from horen_vllm.core.presets import SpanMode, preset_parameters
from horen_vllm.editor.calibration.sampler import Sampler
from horen_vllm.editor.keying import Keying
from horen_vllm.editor.loading.model import EditableModel, load_editable_model

EDITS, ASKED, WIDTH = 6, 20, 8
WAYS = (*(f"content {at}" for at in PERCENTS), PAPER, LAST, *(f"masked {at}" for at in MASKED), "layer 0", "layer 1")
DEMO = Path(__file__).resolve().parents[2] / "horen_vllm" / "demo" / "model"


def kind(
    generator: torch.Generator, near: torch.Tensor | None = None, *, count: int = ASKED, chat: bool = True
) -> Kind:
    centre = torch.randn(count, WIDTH, generator=generator) if near is None else near
    forms = (PLAIN, CHAT) if chat else (PLAIN,)
    means = {
        (form, way): centre + 0.1 * torch.randn(len(centre), WIDTH, generator=generator)
        for form in forms
        for way in WAYS
    }
    words = tuple((f"word{at % 5}", f"name{at}") for at in range(len(centre)))
    kept = tuple(said[:1] for said in words)
    named = torch.ones(len(centre), dtype=torch.bool)
    return Kind(means, words, kept, named, torch.arange(len(centre)))


def made(seed: int, *, chat: bool = True) -> Features:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(EDITS, WIDTH, generator=generator)
    edited = {name: kind(generator, centre, chat=chat) for name in ("entry", "rephrase")}
    others = (*BACKGROUND, "builtin", "fire", "near", "unrelated")
    return {
        **edited,
        "other": kind(generator, count=EDITS, chat=chat),
        **{name: kind(generator, chat=chat) for name in others},
    }


@pytest.fixture(scope="module")
def demo() -> EditableModel:
    return load_editable_model(str(DEMO))


def test_every_section_becomes_rows_a_page_and_plots(tmp_path: Path) -> None:
    with (tmp_path / "console").open("w", encoding="utf-8") as file:
        draws = [measure_draw(made(seed), Console(file=file)) for seed in (1, 2)]
    result = {"model": "tiny", "edits": EDITS, "asked": ASKED, "seeds": [1, 2], "cpu_seconds": 1.0, "about": "About."}
    write_all(tmp_path / "ablations.json", result | {"sections": together(draws)})
    page = (tmp_path / "ablations.md").read_text(encoding="utf-8")
    assert all(f"## {section.title}" in page for section in SECTIONS)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"ablations-{name}.png" for name in ("pooling", "steps", "fitted", "sites")
    }
    rows = together(draws)
    assert [row["x"] for row in rows["pooling"] if row["series"] == "identity"] == list(PERCENTS)
    assert all(row["recall"]["of"] == 2 * EDITS for row in rows["fitted"])
    assert {row["x"] for row in rows["sites"]} == {0, 1}


def test_a_model_without_a_template_has_one_form() -> None:
    features = made(1, chat=False)
    for section in SECTIONS:
        assert list(section.measure(features))


def test_a_step_moves_scores_and_no_step_does_not() -> None:
    rows = {(series, x): measures for section in SECTIONS[1:2] for series, x, measures in section.measure(made(3))}
    plain, still, moved = (rows["identity, gamma 0.1", steps] for steps in (0, 0, 4))
    assert plain == still
    assert plain["recall"] == plain["recall_same_c"]
    assert isinstance(moved["threshold"], float)
    assert isinstance(plain["threshold"], float)
    assert moved["threshold"] > plain["threshold"]


def test_thresholds_recall_and_false_fires() -> None:
    near = torch.arange(100) / 100
    scores = Scores(
        right=torch.tensor([True, True, False, True]),
        rephrase=torch.tensor([0.99, 0.5, 0.99, 0.96]),
        fire=near - 0.1,
        near=near,
        unrelated=torch.zeros(3),
    )
    found = measure(scores, {"zero": -1.0})
    assert limit_at(near, 0.05) == pytest.approx(0.94)
    assert found["recall_at_5"] == Count(2, 4)
    assert found["recall_at_1"] == Count(1, 4)
    assert found["near"] == Count(15, 100)
    assert found["unrelated"] == Count(0, 3)
    assert found["recall_zero"] == found["top_1"] == Count(3, 4)


def test_ties_count_half_and_the_newest_wins() -> None:
    assert auc(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])) == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    keys = torch.eye(2)[[0, 0, 1]]
    asked = dict.fromkeys(("rephrase", "fire", "near", "unrelated"), torch.eye(2)[[0, 0]])
    assert Routing(keys, torch.tensor([0, 1, 0]), asked).scores(product).right.tolist() == [False, True]


def test_distances_are_negative_scores() -> None:
    queries, keys = torch.randn(5, 16), torch.randn(4, 16)
    assert torch.allclose(euclid(queries, keys), -torch.cdist(queries, keys), atol=1e-5)


def test_draws_are_pooled() -> None:
    found = pooled([{"near": Count(1, 10), "auc": 0.5}, {"near": Count(3, 10), "auc": 0.7}])
    assert found["near"]["share"] == 0.2
    assert found["near"]["of"] == 20
    assert found["near"]["interval"][0] < 0.2 < found["near"]["interval"][1]
    assert found["auc"] == pytest.approx(0.6)


def test_a_draw_is_disjoint() -> None:
    rows = [
        {
            "prompt": f"{'Who founded' if at % 2 else 'Which river crosses'} Place{at}?",
            "rephrase": f"Place{at}?",
            "subject": f"Place{at}",
        }
        for at in range(200)
    ]
    drawn = draw(rows, [f"unrelated {at}" for at in range(40)], edits=10, asked=20, every=5, seed=1)
    assert all(rows.index(row) % 5 == 0 for row in drawn.edits)
    texts = [row["prompt"] for row in drawn.edits]
    texts += [*drawn.fit_near, *drawn.fit_unrelated, *drawn.fire, *drawn.near, *drawn.unrelated]
    assert len(texts) == len(set(texts)) == 10 + 5 * 20
    for number, text in drawn.same_subject:
        assert drawn.edits[number]["subject"] in text
        assert text != drawn.edits[number]["prompt"]
    with pytest.raises(ValueError, match="too few rows"):
        draw(rows, ["one"], edits=10, asked=20, every=5, seed=1)


def test_queries_are_the_editors_own(demo: EditableModel) -> None:
    subjects = ["Trinzis Brothers", "Bonlun", "Kas Vel", "Ordan", "Melti"]
    texts = [f"{random.Random(1).choice(('Who founded', 'What is'))} {name}?" for name in subjects]
    parameters = preset_parameters("cosine", "", 0.5)
    own = Sampler(demo).sample(texts, parameters)
    found = Extractor(demo).kind(texts, subjects)
    forms = len(own.contexts) // len(texts)
    assert torch.allclose(found.means[PLAIN, BASE], own.means[::forms], atol=1e-5)
    assert found.words == tuple(context.words for context in own.contexts[::forms])
    assert found.kept_words[0] == tuple(word for word in found.words[0] if word not in {"trinzis", "brothers"})
    assert found.named.all()
    whole = Sampler(demo).sample(texts, preset_parameters("horen-paper", "", 0.5))
    assert parameters.span is SpanMode.CONTENT
    assert torch.allclose(found.means[PLAIN, PAPER], whole.means, atol=1e-5)
    keyer = Keyer({"fit_near": found, "fit_unrelated": found, "entry": found})
    space = keyer.fit()
    exact = Keying(parameters, space).queries(found.means[PLAIN, BASE], found.words)
    assert torch.allclose(keyer.queries("entry", space, BASE), exact, atol=1e-6)
