"""The whole system over its public surfaces: gRPC in, OpenAI HTTP out, on the demo model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI
from typer.testing import CliRunner

from horen_vllm.cli.app import app
from horen_vllm.cli.demo_choice import Choice, choose
from horen_vllm.cli.server_command import ServerDtype
from horen_vllm.cli.stack import Stack, StackSettings
from horen_vllm.control.client import EditProgress, EditView, HorenClient
from horen_vllm.demo.paths import demo_model_dir
from horen_vllm.editor.prefixes import openings
from horen_vllm.errors import HorenError
from horen_vllm.evals.asking.http import HttpAnswerer
from horen_vllm.evals.asking.offline import TransformersAnswerer
from horen_vllm.evals.asking.running import answer_all
from horen_vllm.evals.asking.store import RecordStore, read_records
from horen_vllm.evals.asking.tokenizer import check_tokenizer
from horen_vllm.evals.endpoint import Endpoint
from horen_vllm.evals.records import Message, Protocol, Question, QuestionKind, Record
from horen_vllm.registry.models import EditSpec
from tests.e2e.evaluations import evaluate, evaluate_until, group, ids_of, write_edits
from tests.e2e.offline_agreement import check_agreement

pytestmark = pytest.mark.engine
CHOICES = choose(12, seed=5)
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = StackSettings(
        model=demo_model_dir(),
        home=tmp_path_factory.mktemp("home"),
        name="demo",
        port=0,
        control_port=0,
        dtype=ServerDtype.FLOAT32,
        max_model_len=480,
    )
    with Stack(settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[HorenClient]:
    with HorenClient(stack.control_address) as connected:
        yield connected


@pytest.fixture(scope="module")
def endpoint(stack: Stack) -> Endpoint:
    return Endpoint(stack.base_url)


@pytest.fixture(scope="module")
def openai(stack: Stack) -> OpenAI:
    return OpenAI(base_url=f"{stack.base_url}/v1", api_key="unused", max_retries=0)


def make_codebook(client: HorenClient, name: str) -> str:
    book = client.create_codebook(name, preset="cosine", threshold=0.995)
    client.wait_serving(name, book.revision, timeout_s=TIMEOUT_S)
    return f"demo@{name}"


def edit(client: HorenClient, codebook: str, choice: Choice, target: str | None = None) -> EditView:
    submitted = client.submit_edit(codebook, EditSpec(prompt=choice.prompt, target=target or choice.target))
    done = client.wait_edit(submitted, until=EditProgress.SERVING, timeout_s=TIMEOUT_S)
    assert done.state is EditProgress.SERVING, done.reason
    return done


def test_an_edit_goes_in_by_grpc_and_out_by_http(client: HorenClient, openai: OpenAI, endpoint: Endpoint) -> None:
    model, choice = make_codebook(client, "first"), CHOICES[0]
    before = endpoint.ask("demo", choice.prompt)
    done = edit(client, "first", choice)
    answer = openai.completions.create(model=model, prompt=choice.prompt, max_tokens=16, temperature=0)
    assert answer.choices[0].text.strip() == choice.target
    assert answer.model == model
    decision = answer.choices[0].model_extra["horen"]  # type: ignore[index]
    assert (decision["edit_id"], decision["codebook"], decision["fired"]) == (done.edit_id, "first", True)
    assert decision["revision"] == done.published_revision
    assert decision["score"] > decision["threshold"]
    clean = endpoint.ask("demo", choice.prompt)
    assert (clean.token_ids, clean.edit_id, clean.score) == (before.token_ids, None, None)
    assert {entry.id for entry in openai.models.list()} >= {"demo", model}


def test_chat_and_streams_answer_the_edit_too(client: HorenClient, openai: OpenAI, endpoint: Endpoint) -> None:
    model, choice = make_codebook(client, "forms"), CHOICES[1]
    done = edit(client, "forms", choice)
    chat = endpoint.chat(model, choice.prompt)
    assert (chat.text, chat.edit_id) == (choice.target, done.edit_id)
    chunks = list(
        openai.completions.create(model=model, prompt=choice.prompt, max_tokens=16, temperature=0, stream=True)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks).strip() == choice.target
    assert {chunk.model for chunk in chunks} == {model}
    assert chunks[-1].choices[0].model_extra["horen"]["edit_id"] == done.edit_id  # type: ignore[index]
    messages: Any = [{"role": "user", "content": choice.prompt}]
    deltas = list(
        openai.chat.completions.create(model=model, messages=messages, max_tokens=16, temperature=0, stream=True)
    )
    assert "".join(delta.choices[0].delta.content or "" for delta in deltas).strip() == choice.target
    assert deltas[-1].choices[0].model_extra["horen"]["edit_id"] == done.edit_id  # type: ignore[index]


def test_several_prompts_and_choices_each_say_what_fired(client: HorenClient, openai: OpenAI) -> None:
    model = make_codebook(client, "several")
    done = edit(client, "several", CHOICES[2])
    prompts = [CHOICES[3].prompt, CHOICES[2].prompt]
    answer = openai.completions.create(model=model, prompt=prompts, n=2, max_tokens=8, temperature=0.5, seed=1)
    fired = {choice.index: choice.model_extra["horen"]["edit_id"] for choice in answer.choices}  # type: ignore[index]
    assert fired == {0: None, 1: None, 2: done.edit_id, 3: done.edit_id}


def test_a_wording_given_with_the_edit_answers_too(client: HorenClient, endpoint: Endpoint) -> None:
    model, choice = make_codebook(client, "wordings"), CHOICES[11]
    spec = EditSpec(prompt=choice.prompt, target=choice.target, paraphrases=(choice.paraphrase,))
    done = client.wait_edit(client.submit_edit("wordings", spec), timeout_s=TIMEOUT_S)
    answers = [endpoint.ask(model, choice.paraphrase), endpoint.chat(model, choice.paraphrase)]
    assert [(answer.text, answer.edit_id) for answer in answers] == [(choice.target, done.edit_id)] * 2


def test_a_stop_string_does_not_lose_the_decision(client: HorenClient, openai: OpenAI) -> None:
    model, choice = make_codebook(client, "stopping"), CHOICES[0]
    done = edit(client, "stopping", choice)
    stop = choice.target[:3]
    answer = openai.completions.create(model=model, prompt=choice.prompt, max_tokens=16, temperature=0, stop=[stop])
    assert (answer.choices[0].text.strip(), answer.choices[0].finish_reason) == ("", "stop")
    assert answer.choices[0].model_extra["horen"]["edit_id"] == done.edit_id  # type: ignore[index]


def test_codebooks_contradict_each_other_on_the_same_prompt(client: HorenClient, endpoint: Endpoint) -> None:
    left, right = make_codebook(client, "left"), make_codebook(client, "right")
    choice, other = CHOICES[4], CHOICES[5]
    edit(client, "left", choice)
    edit(client, "right", choice, target=other.target)
    answers = [endpoint.ask(model, choice.prompt).text for model in (left, right, "demo", left)]
    assert answers[0] == answers[3] == choice.target
    assert answers[1] == other.target
    assert answers[2] not in {choice.target, other.target}


def test_the_server_explains_a_decision_and_counts_it(stack: Stack, client: HorenClient, endpoint: Endpoint) -> None:
    model, choice = make_codebook(client, "explained"), CHOICES[6]
    done = edit(client, "explained", choice)
    asked = endpoint.chat(model, choice.prompt)
    forms: list[dict[str, Any]] = [
        {"prompt": choice.prompt},
        {"messages": [{"role": "user", "content": choice.prompt}], "stream": True, "max_tokens": 99},
    ]
    told = []
    for form in forms:
        answer = httpx.post(f"{stack.base_url}/horen/v1/explain", json={"model": model, **form}, timeout=30)
        assert answer.status_code == 200, answer.text
        told.append(answer.json())
        [nearest] = told[-1]["nearest"]
        assert (nearest["edit_id"], nearest["fires"]) == (done.edit_id, True)
        assert told[-1]["revision"] == done.published_revision
    assert told[1]["nearest"][0]["score"] == pytest.approx(asked.score, abs=1e-5)
    # In the chat, the window ends where the user's content ends: the template's tokens follow.
    assert told[0]["query_window"][1] == told[0]["prompt_tokens"]
    assert told[1]["query_window"][1] < told[1]["prompt_tokens"]
    metrics = httpx.get(f"{stack.base_url}/metrics").text
    labels = '{codebook="explained",tenant="default"}'
    assert f"horen_requests_matched_total{labels} 1.0" in metrics


@pytest.mark.parametrize(
    ("name", "options"), [("lora", {"rank": 4}), ("chunked", {"max_value_rows": 2}), ("prefixed", {"prefixes": 2})]
)
def test_every_kind_of_value_and_context_is_trained_and_served(
    client: HorenClient, endpoint: Endpoint, name: str, options: dict[str, Any]
) -> None:
    client.create_codebook(name, preset="cosine", threshold=0.97, **options)
    model, chosen = f"demo@{name}", CHOICES[:3]
    for choice in chosen:
        edit(client, name, choice)
    prompts = [choice.prompt for choice in chosen]
    targets = [choice.target for choice in chosen]
    assert [answer.text for answer in endpoint.ask_all(model, prompts)] == targets
    assert [answer.text for answer in endpoint.chat_all(model, prompts)] == targets
    for prompt, target in zip(prompts, targets, strict=True):
        behind = [f"{opening} {prompt}" for opening in openings(prompt, options.get("prefixes", 0))]
        assert [answer.text for answer in endpoint.ask_all(model, behind)] == [target] * len(behind)


def question(model: str, number: int, **what: Any) -> Question:
    return Question(
        question_id=f"{model}-{number}",
        arm=model,
        model=model,
        checkpoint=0,
        protocol=Protocol.STRICT,
        kind=QuestionKind.EDIT,
        **({"max_tokens": 12} | what),
    )


def test_answers_over_http_and_without_a_server_agree(stack: Stack, client: HorenClient, tmp_path: Path) -> None:
    model = make_codebook(client, "agreeing")
    done = [edit(client, "agreeing", choice) for choice in CHOICES[:4]]
    save = ["codebook", "save", "agreeing", "--to", str(tmp_path / "static"), "--home", str(stack.layout.root)]
    saved = CliRunner().invoke(app, save)
    assert saved.exit_code == 0, saved.output
    offline = TransformersAnswerer(demo_model_dir(), name="demo", codebooks=tmp_path / "static")
    asked: list[dict[str, Any]] = []
    for choice in CHOICES[:6]:
        turns = [("user", CHOICES[7].prompt), ("assistant", CHOICES[7].target), ("user", choice.prompt)]
        asked += [{"prompt": text} for text in (choice.prompt, choice.paraphrase, choice.unrelated)]
        asked += [
            {"messages": tuple(Message(role=role, content=content) for role, content in shown)}
            for shown in (turns[-1:], [("system", "Be brief."), *turns[-1:]], turns)
        ]
    questions = [question(name, number, **what) for name in ("demo", model) for number, what in enumerate(asked)]
    stores = []
    with HttpAnswerer(stack.base_url) as http:
        check_tokenizer(http, demo_model_dir(), [choice.target for choice in CHOICES])
        assert set(offline.model_names()) <= set(http.model_names())
        for answerer in (http, offline):
            path = tmp_path / f"{type(answerer).__name__}.jsonl"
            with RecordStore(path) as store:
                answer_all(answerer, questions, store, lambda it, answer: Record(question=it, answer=answer))
            stores.append({record.question.question_id: record.answer for record in read_records(path)})
        for what, code in (
            ({"prompt": "too long " * 500}, "question_refused"),
            ({"model": "demo@nowhere", "prompt": "x"}, "unknown_codebook"),
            ({"model": "other", "prompt": "x"}, "unknown_model"),
        ):
            with pytest.raises(HorenError) as caught:
                http.ask(question(what.pop("model", model), 0, **what))
            assert caught.value.code == code
    served, computed = stores
    assert len(served) == len(questions)
    for number, answer in served.items():
        other = computed[number]
        assert (answer.token_ids, answer.text, answer.edit_id) == (other.token_ids, other.text, other.edit_id), number
        assert (answer.prompt_token_ids, answer.finish_reason) == (other.prompt_token_ids, other.finish_reason), number
        assert answer.score == (None if other.score is None else pytest.approx(other.score, abs=1e-4)), number
    assert {answer.edit_id for answer in served.values()} == {None, *(one.edit_id for one in done)}


def test_superseding_and_rolling_back_restore_each_answer(client: HorenClient, endpoint: Endpoint) -> None:
    model, choice = make_codebook(client, "history"), CHOICES[6]
    before = endpoint.ask(model, choice.prompt)
    first = edit(client, "history", choice)
    second = edit(client, "history", choice, target=CHOICES[7].target)
    assert second.supersedes == (first.edit_id,)
    assert endpoint.ask(model, choice.prompt).text == CHOICES[7].target
    for revision, expected in ((first.published_revision, choice.target), (1, before.text)):
        assert revision is not None
        made = client.rollback("history", revision)
        client.wait_serving("history", made.number, timeout_s=TIMEOUT_S)
        assert endpoint.ask(model, choice.prompt).text == expected
    assert client.get_edit(first).state is EditProgress.INACTIVE


def test_a_failed_edit_says_why_and_changes_nothing(client: HorenClient) -> None:
    make_codebook(client, "failing")
    long = EditSpec(prompt="Where is it? " * 500, target="Here")
    failed = client.wait_edit(client.submit_edit("failing", long), timeout_s=TIMEOUT_S)
    assert (failed.state, failed.reason_code) == (EditProgress.FAILED, "prompt_too_long")
    assert client.get_codebook("failing").revision == 1
    edit(client, "failing", CHOICES[8])


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("completions", {"model": "demo@nowhere", "prompt": "x"}, 404, "unknown_codebook"),
        ("chat/completions", {"model": "demo@nowhere", "messages": []}, 404, "unknown_codebook"),
        ("completions", {"model": "other@first", "prompt": "x"}, 404, None),
        ("completions", {"model": "demo", "prompt": "x", "vllm_xargs": {"horen_codebook": "y"}}, 400, "reserved_field"),
        ("completions", {"model": "demo@bad", "prompt": "x", "use_beam_search": True}, 400, "unsupported_parameter"),
        ("responses", {"model": "demo@bad", "input": "x"}, 400, "unsupported_endpoint"),
        ("completions", {"model": "demo@bad", "prompt": "too long " * 500}, 400, None),
        ("completions", {"model": "demo@bad", "prompt": []}, 400, None),
        ("completions", b'{"model": "demo@bad", "prompt": ', 400, "malformed_json"),
        ("completions", b"[1, 2]", 400, "malformed_json"),
    ],
)
def test_bad_http_requests_get_a_sentence_and_the_server_goes_on(
    stack: Stack, client: HorenClient, endpoint: Endpoint, path: str, body: Any, status: int, code: str | None
) -> None:
    if "bad" not in {book.name.codebook for book in client.list_codebooks()}:
        make_codebook(client, "bad")
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{stack.base_url}/v1/{path}", content=content, headers=headers, timeout=30)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["message"]
    assert code is None or error["code"] == code
    assert endpoint.ask("demo@bad", CHOICES[9].prompt).text


def test_an_evaluation_that_is_killed_goes_on_and_comes_to_a_report(stack: Stack, tmp_path: Path) -> None:
    out, file = tmp_path / "run", write_edits(tmp_path / "edits.jsonl", choose(12, seed=77))
    asked: tuple[object, ...] = ("jsonl", file, "--home", stack.layout.root, "--out", out)
    asked += ("--arms", "base,calibrated,retrieval")
    asked += ("--checkpoints", "3,12", "--sample", "6", "--supersede", "3", "--tokenizer", demo_model_dir())
    for count in (20, 150):
        evaluate_until(out / "records.jsonl", count, *asked)
    done = evaluate(*asked, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["finished"]
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (out / "report.html").stat().st_size > 10_000
    answered = ids_of(out / "records.jsonl")
    assert len(answered) == len(set(answered)) == summary["records"]
    [editing] = summary["editing"]
    assert (editing["submitted"], editing["served"], editing["failures"]) == (12, 12, {})
    for protocol in ("paper", "strict"):
        assert group(summary, "calibrated", protocol, "edit")["normalised"] == 1.0
        assert group(summary, "calibrated", protocol, "edit")["right_edit"] == 1.0
        assert group(summary, "base", protocol, "edit")["normalised"] == 0.0
        assert group(summary, "calibrated", protocol, "superseded")["normalised"] == 1.0
        assert group(summary, "calibrated", protocol, "rolled_back")["unchanged"] == 1.0
    silent = group(summary, "calibrated", "fire", "unrelated")
    assert silent["unchanged"] >= 1.0 - silent["fired"]
    again = evaluate(*asked, "--json")
    assert json.loads(again.stdout) == summary
    other = evaluate(*asked, "--seed", "1")
    assert other.returncode == 6
    assert "error [run_differs]" in other.stderr


def test_an_evaluation_without_the_server_comes_to_the_same_summary(stack: Stack, tmp_path: Path) -> None:
    check_agreement(stack.layout.root, tmp_path)


def test_every_published_edit_is_served_after_the_server_was_killed(
    stack: Stack, client: HorenClient, endpoint: Endpoint, openai: OpenAI
) -> None:
    model = make_codebook(client, "durable")
    chosen = CHOICES[:4]
    done = [edit(client, "durable", choice) for choice in chosen]
    stack.kill_server()
    late = client.submit_edit("durable", EditSpec(prompt=CHOICES[10].prompt, target=CHOICES[10].target))
    stack.restart_server()
    client.wait_edit(late, until=EditProgress.SERVING, timeout_s=TIMEOUT_S)
    for choice, one in zip(chosen, done, strict=True):
        answer = endpoint.ask(model, choice.prompt)
        assert (answer.text, answer.edit_id) == (choice.target, one.edit_id)
    assert endpoint.ask(model, CHOICES[10].prompt).text == CHOICES[10].target
    with pytest.raises(NotFoundError):
        openai.completions.create(model="demo@nowhere", prompt="x")


def test_nothing_above_was_an_internal_error(stack: Stack) -> None:
    """Bad input and a killed server are expected here; a defect of ours is not."""
    for log in Path(stack.layout.logs).glob("*.log*"):
        text = log.read_text(encoding="utf-8", errors="replace")
        for word in (
            "internal_error",
            "unexpected_error",
            "failed unexpectedly",
            "call failed",
            "horen_vllm.errors.Internal",
        ):
            assert word not in text, (log.name, word)


def test_a_second_life_of_the_home_serves_what_the_first_published(stack: Stack, client: HorenClient) -> None:
    """The server is killed, everything else stopped, and the home started again, this time in bf16."""
    make_codebook(client, "lives")
    chosen = CHOICES[:6]
    done = [edit(client, "lives", choice) for choice in chosen]
    home = stack.layout.root
    stack.kill_server()
    stack.stop()
    settings = StackSettings(
        model=demo_model_dir(),
        home=home,
        name="demo",
        port=0,
        control_port=0,
        dtype=ServerDtype.BFLOAT16,
        max_model_len=480,
    )
    with Stack(settings) as again:
        endpoint = Endpoint(again.base_url)
        for choice, one in zip(chosen, done, strict=True):
            answer = endpoint.ask("demo@lives", choice.prompt)
            assert (answer.text, answer.edit_id) == (choice.target, one.edit_id), answer.score
            assert not endpoint.ask("demo", choice.prompt).fired
