"""The report: whole, self-contained, and deaf to what a model answers."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from horen_vllm.evals.records import Message, Protocol, Question, QuestionKind, Record
from horen_vllm.evals.reporting.plots import Curves, Histogram, draw_curves, draw_histograms
from horen_vllm.evals.reporting.report import write_report
from horen_vllm.evals.reporting.run_info import REPORT_FILE, SUMMARY_FILE, ArmInfo, DefectInfo, StreamedCase
from horen_vllm.evals.reporting.summary_parts import Number
from tests.unit.evals.reporting.made_runs import World, info, made, record, save

HOSTILE: Final = (
    "<script>document.title = 'taken'</script>",
    '"><img src=x onerror="document.title=\'taken\'">',
    "</pre></td></table><iframe src='http://example.com'></iframe>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1) &lt;b&gt; $\\frac{1}{0}$ \u202e\x00",
)
VOID: Final = frozenset({"meta", "img", "br", "link", "input"})
BROWSER: Final = shutil.which("chromium") or shutil.which("google-chrome")


@dataclass
class Page(HTMLParser):
    """A page taken apart: elements, texts, whether every element is closed."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)
        if self.open and self.open[-1] in {"h1", "h2"}:
            self.headings.append(data)

    @property
    def images(self) -> list[str]:
        """The pictures as SVG."""
        sources = [attributes["src"] for tag, attributes in self.elements if tag == "img"]
        return [base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode() for source in sources]


def page_of(folder: Path) -> Page:
    """Write the report of a run and take it apart."""
    write_report(folder)
    page = Page()
    page.feed((folder / REPORT_FILE).read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def hostile(folder: Path) -> Path:
    """Write a run in which everything that comes from outside is hostile."""
    arms = [ArmInfo(name="base", model=HOSTILE[0])]
    arms += [ArmInfo(name="a$b$<i>", model=HOSTILE[0], codebook=HOSTILE[1], parameters={HOSTILE[2]: HOSTILE[3]})]
    stream = [StreamedCase(case_id=f"c{at}", prompt=text, target=text) for at, text in enumerate(HOSTILE)]
    defects = [DefectInfo(kind=HOSTILE[0], count=1, examples=HOSTILE, handling=HOSTILE[1])]
    about = info(arms=arms, stream=stream, defects=defects, settings={HOSTILE[0]: HOSTILE[1]})
    wrong = {"token_accuracy": 0.0, "all_tokens": 0.0}
    return save(
        folder,
        about.model_copy(update={"notes": HOSTILE, "command": HOSTILE[1], "name": HOSTILE[0]}),
        [
            record(
                arm="a$b$<i>", case=at, prompt=text, targets=(text,), text=text, edit_id=text, score=0.9, metrics=wrong
            )
            for at, text in enumerate(HOSTILE)
        ],
    )


def test_every_link_leads_to_a_section_and_every_section_has_something(tmp_path: Path) -> None:
    page = page_of(made(tmp_path))
    names = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == [f"#{name}" for name in names]
    assert {"overall", "false-fires", "equal-rates", "scores", "robustness", "ageing", "latency", "failures"} <= set(
        names
    )
    assert "passages" not in names


def test_the_numbers_of_the_summary_stand_in_it(tmp_path: Path) -> None:
    page = page_of(made(tmp_path))
    summary = json.loads((tmp_path / SUMMARY_FILE).read_text())
    shown = " ".join(page.texts)
    assert "zsre on tiny" in page.headings
    for one in summary["overall"]:
        if one["checkpoint"] == 40:
            assert f"{one['generalisation']['value']:.3f}" in shown
            assert f"{one['op']['low']:.3f} to {one['op']['high']:.3f}" in shown
    assert "target_not_reached" in shown
    assert summary["run"]["command"] in shown
    assert summary["run"]["dataset"]["sha256"] in shown


def test_nothing_in_it_is_fetched_and_nothing_runs(tmp_path: Path) -> None:
    page = page_of(hostile(tmp_path))
    assert not {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed", "link", "form", "base", "i"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "action", "data", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/svg+xml;base64,"))
    policies = [attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    style = re.search(r"<style>(.*?)</style>", (tmp_path / REPORT_FILE).read_text(), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_hostile_texts_stand_in_it_as_they_are(tmp_path: Path) -> None:
    page = page_of(hostile(tmp_path))
    shown = "".join(page.texts)
    for text in HOSTILE:
        # Asked, target, answer, and the edit that answered.
        assert shown.count(text) >= 4, text


def test_pictures_stand_alone(tmp_path: Path) -> None:
    page = page_of(hostile(tmp_path))
    assert page.images
    for image in page.images:
        root = ET.fromstring(image)
        addresses = [
            value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")
        ]
        assert all(address.startswith("#") for address in addresses)
        assert not [element for element in root.iter() if element.tag.endswith(("script", "image", "foreignObject"))]
    assert all(attributes["alt"] for tag, attributes in page.elements if tag == "img")


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    made(tmp_path, World(edits=8, checkpoints=(4, 8)))
    write_report(tmp_path)
    first = (tmp_path / REPORT_FILE).read_bytes()
    write_report(tmp_path)
    assert (tmp_path / REPORT_FILE).read_bytes() == first


def test_a_run_that_goes_on_says_so(tmp_path: Path) -> None:
    page = page_of(save(tmp_path, info(finished=False), [record(metrics={"token_accuracy": 1.0})]))
    assert "has not come to its end" in "".join(page.texts)
    write_report(save(tmp_path / "done", info(), []))
    assert "has not come to its end" not in (tmp_path / "done" / REPORT_FILE).read_text()


def test_a_run_without_answers_has_a_report(tmp_path: Path) -> None:
    info(finished=False).save(tmp_path)
    page = page_of(tmp_path)
    assert "How this was made" in page.headings
    assert "None." in "".join(page.texts)


def test_a_broken_character_of_a_model_is_shown_as_its_escape(tmp_path: Path) -> None:
    page = page_of(save(tmp_path, info(), [record(text="half \ud83d", metrics={"all_tokens": 0.0})]))
    assert "half \\ud83d" in page.texts


def test_a_conversation_is_shown_turn_by_turn(tmp_path: Path) -> None:
    asked = record(QuestionKind.TURN_3, Protocol.STRICT, metrics={"normalised": 0.0})
    turns = tuple(Message(role=role, content=text) for role, text in (("user", "Hello"), ("assistant", "Hi")))
    fields = {name: getattr(asked.question, name) for name in Question.__dataclass_fields__}
    question = Question(**fields | {"prompt": None, "messages": turns})
    page = page_of(save(tmp_path, info(), [Record(question=question, answer=asked.answer, metrics=asked.metrics)]))
    assert "user: Hello\nassistant: Hi" in page.texts


def test_passages_have_their_own_measures(tmp_path: Path) -> None:
    asked = [
        record(kind, Protocol.PASSAGE, case=at, metrics={"rougeL": 0.5, "unke_bleu": 0.25, "semantic": 0.75})
        for kind in (QuestionKind.EDIT, QuestionKind.REPHRASE, QuestionKind.SUB_QUESTION)
        for at in range(2)
    ]
    shown = "".join(page_of(save(tmp_path, info(), asked)).texts)
    for words in ("passage protocol", "ROUGE-L", "BLEU (UnKE)", "semantic", "sub question", "0.750"):
        assert words in shown
    assert "ROUGE-2" not in shown


def test_passages_that_failed_are_listed_with_the_bound(tmp_path: Path) -> None:
    asked = record(protocol=Protocol.PASSAGE, expected="e0", edit_id="e0", score=0.9, metrics={"rougeL": 0.25})
    shown = " ".join("".join(page_of(save(tmp_path, info(), [asked])).texts).split())
    assert "edit (passage): 1 of 1: its edit fired, with another text (1)" in shown
    assert "a ROUGE-L below 0.5" in shown
    assert "ROUGE-L 0.250" in shown


def test_rows_at_a_rate_that_the_own_threshold_keeps_say_so(tmp_path: Path) -> None:
    page = page_of(made(tmp_path))
    summary = json.loads((tmp_path / SUMMARY_FILE).read_text())
    rows = [one for one in summary["equal_rates"] if one["checkpoint"] == 40]
    bounded = sum(one["bounded_by_own_threshold"] for one in rows)
    assert 0 < bounded < len(rows)
    assert page.texts.count("lets no more fire: same numbers") == bounded
    assert any("hollow: at its own threshold" in image for image in page.images)


def test_both_thresholds_are_drawn_and_told(tmp_path: Path) -> None:
    world = World(edits=8, checkpoints=(8,))
    parameters = {"cosine": {}, "calibrated": {"anchors": True, "anchored_threshold": 0.6543}}
    about = world.info()
    for arm, more in parameters.items():
        known = about.arm(arm)
        assert known is not None
        about = about.with_arm(known.model_copy(update={"parameters": more}))
    page = page_of(save(tmp_path, about, list(world.records())))
    assert {"0.8000", "0.6543"} <= set(page.texts)
    (image,) = [image for image in page.images if "score: cosine" in image]
    for name in ("threshold", "threshold, edits without a subject", "threshold, edits with a subject"):
        assert f"<!-- {name} -->" in image


def test_scores_of_another_kind_have_bins_of_their_own() -> None:
    cosines, distances = Histogram("a", {"edit": [0.5, 1.0, 1.0]}), Histogram("b", {"edit": [-40.0, 0.0]}, x="distance")

    def heights(*panels: Histogram) -> int:
        root = ET.fromstring(draw_histograms(panels, "").svg)
        outline = next(each for each in root.iter() if each.get("id") == "patch_3")
        return len({point.split()[1] for point in re.findall(r"[ML] ([-\d. ]+)", outline[0].get("d", ""))})

    # None, one and two of three; in bins as wide as those of the distances all three fall together.
    assert heights(cosines) == heights(cosines, distances) == 3
    assert heights(cosines, Histogram("b", {"edit": [-40.0, 0.0]})) == 2


def test_labels_of_checkpoints_that_are_close_do_not_touch() -> None:
    number = Number(value=0.5, low=0.4, high=0.6, count=1, method="bootstrap")
    places = (100, 1000, 5000, 10_000, 10_041, 25_000)
    image = draw_curves([Curves("a", {"x": [(place, number) for place in places]})], "").svg
    labels = [place for place in ("100", "1K", "5K", "10K", "10,041", "25K") if f"<!-- {place} -->" in image]
    assert labels == ["100", "1K", "5K", "10,041", "25K"]


def test_long_lists_of_failures_are_cut_and_say_so(tmp_path: Path) -> None:
    asked = [record(case=at, score=0.1, metrics={"all_tokens": 0.0}) for at in range(40)]
    shown = " ".join("".join(page_of(save(tmp_path, info(), asked)).texts).split())
    assert "40 of 40: no edit fired (40)" in shown
    assert "The first 25 in the order of the stream" in shown


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_it(tmp_path: Path) -> None:
    write_report(hostile(tmp_path))
    done = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            (tmp_path / REPORT_FILE).as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    page = Page()
    page.feed(done.stdout.decode("utf-8"))
    titles = re.search(r"<title>(.*?)</title>", done.stdout.decode("utf-8"), re.DOTALL)
    assert titles is not None
    assert "zsre on" in titles[1], "nothing has changed the title"
    shown = "".join(page.texts)
    for text in HOSTILE[:4]:
        assert shown.count(text) >= 4
    assert not {tag for tag, _ in page.elements} & {"script", "iframe"}
