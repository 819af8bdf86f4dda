"""``horen eval`` against a server that answers as OpenAI's API does, and a control plane without workers."""

import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from horen_vllm.control.server import ControlServer
from tests.unit.evals.asking.scripted import Handler, Script, completion

from .conftest import Run

EDITS = [
    {
        "prompt": f"Who leads company {number}x?",
        "target": f"Person {number}",
        "subject": f"company {number}x",
        "rephrase": f"company {number}x is led by whom?",
        "locality_prompt": f"What colour is stone {number}?",
    }
    for number in range(4)
]
FEW = ("--edits", "2", "--sample", "2", "--protocols", "paper,strict", "--attempts", "1")


class Server(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True


def answer(models: list[str], handler: Handler, body: dict[str, Any]) -> None:
    if handler.path == "/v1/models":
        handler.answer({"data": [{"id": name} for name in models]})
    elif handler.path == "/tokenize":
        handler.answer({"tokens": [len(word) for word in body["prompt"].split()]})
    else:
        handler.answer(completion(body))


@pytest.fixture
def script() -> Script:
    return Script(otherwise=lambda handler, body: answer(["demo-model"], handler, body))


@pytest.fixture
def url(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("HOREN_SERVER", raising=False)
    with Server(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "edits.jsonl"
    path.write_text("".join(json.dumps(edit) + "\n" for edit in EDITS))
    return path


def test_baselines_alone_need_no_control_plane(run: Run, url: str, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run("eval", "jsonl", file, "--url", url, "--arms", "base,retrieval", *FEW, "--out", out)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {"run.json", "records.jsonl", "summary.json", "report.html"}
    [row] = [line.split() for line in done.stdout.splitlines() if line.startswith("retrieval  paper")]
    assert row[2] == "0.000"
    told = run("eval", "report", out, "--json")
    assert json.loads(told.stdout) == json.loads((out / "summary.json").read_text())


def test_two_runs_are_compared(run: Run, url: str, file: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "0"), ("b", "1")):
        done = run(
            "eval", "jsonl", file, "--url", url, "--arms", "base", *FEW, "--seed", seed, "--out", tmp_path / name
        )
        assert done.exit_code == 0, done.output
    compared = run("eval", "compare", tmp_path / "a", tmp_path / "b")
    assert compared.exit_code == 0, compared.output
    assert "settings.seed: 0 / 1" in compared.stdout
    told = json.loads(run("eval", "compare", tmp_path / "a", tmp_path / "b", "--json").stdout)
    assert all(row["difference"]["value"] == 0.0 for row in told["compared"])
    assert run("eval", "compare", tmp_path / "a", tmp_path / "b", "--arm", "base").exit_code == 3
    assert run("eval", "compare", tmp_path / "a", tmp_path / "nothing").exit_code == 4


def test_a_server_that_is_down_is_told_and_the_run_goes_on_later(
    run: Run, script: Script, url: str, file: Path, tmp_path: Path
) -> None:
    arguments = ("eval", "jsonl", file, "--url", url, "--arms", "base", *FEW, "--out", tmp_path / "run")
    usual = script.otherwise
    asked = iter(range(12))

    def fail_after_a_while(handler: Handler, body: dict[str, Any]) -> None:
        if next(asked, None) is None:
            handler.answer({"error": {"message": "restarting"}}, 503)
        else:
            usual(handler, body)

    script.otherwise = fail_after_a_while
    broken = run(*arguments)
    assert broken.exit_code == 7
    assert "error [server_unavailable]" in broken.stderr
    assert "goes on from there" in broken.stderr
    script.otherwise = usual
    assert run(*arguments).exit_code == 0
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    names = [json.loads(line)["question"]["question_id"] for line in lines]
    assert len(names) == len(set(names))


def test_an_arm_with_a_codebook_needs_somebody_who_makes_and_serves_it(
    run: Run, server: ControlServer, url: str, file: Path, tmp_path: Path
) -> None:
    arguments = ("eval", "jsonl", file, "--url", url, "--arms", "base,cosine", *FEW, "--patience", "1")
    without = run(*arguments, "--out", tmp_path / "run")
    assert without.exit_code == 3
    assert "error [threshold_required]" in without.stderr
    stalled = run(*arguments, "--threshold", "cosine=0.8", "--out", tmp_path / "other")
    assert stalled.exit_code == 7
    assert "error [edits_stalled]" in stalled.stderr


def test_a_server_with_another_tokenizer_is_refused(run: Run, url: str, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    refused = run("eval", "jsonl", file, "--url", url, *FEW, "--tokenizer", folder, "--out", tmp_path / "run")
    assert refused.exit_code == 6
    assert "error [tokenizer_differs]" in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--arms", "base,nonsense"), "unknown_arm"),
        (("--arms", "retrieval"), "invalid_arms"),
        (("--arms", "base", "--threshold", "cosine=0.5"), "invalid_arms"),
        (("--threshold", "cosine=high"), "invalid_threshold"),
        (("--threshold", "calibrated=7"), "invalid_option"),
        (("--protocols", "spoken"), "invalid_option"),
        (("--checkpoints", "one"), "invalid_checkpoints"),
        (("--checkpoints", "1,9"), "invalid_checkpoints"),
        (("--edits", "5"), "too_few_edits"),
        (("--layout", "nonsense"), "unknown_layout"),
        (("--offline",), "model_required"),
        (("--name", "Not A Name"), "invalid_name"),
    ],
)
def test_wrong_options_are_told_before_anything_is_submitted(
    run: Run, url: str, file: Path, tmp_path: Path, options: tuple[str, ...], code: str
) -> None:
    refused = run("eval", "jsonl", file, "--url", url, "--out", tmp_path / "run", *options)
    assert refused.exit_code == 3, refused.output
    assert f"error [{code}]" in refused.stderr
    assert not (tmp_path / "run" / "records.jsonl").exists()


def test_a_row_without_a_field_is_told_by_file_line_and_field(run: Run, url: str, file: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text() + '{"prompt": "Who?"}\n')
    refused = run("eval", "jsonl", file, "--url", url, "--out", tmp_path / "run")
    assert refused.exit_code == 3
    assert "error [missing_field]" in refused.stderr
    assert str(file) in refused.stderr
    assert "line 5" in refused.stderr
    assert "target" in refused.stderr


def test_of_several_base_models_one_is_named(run: Run, script: Script, url: str, file: Path, tmp_path: Path) -> None:
    script.otherwise = lambda handler, body: answer(["one", "two", "two@book"], handler, body)
    arguments = ("eval", "jsonl", file, "--url", url, "--arms", "base", *FEW, "--out", tmp_path / "run")
    refused = run(*arguments)
    assert refused.exit_code == 3
    assert "error [model_required]" in refused.stderr
    unknown = run(*arguments, "--model", "three")
    assert unknown.exit_code == 4
    assert "error [unknown_model]" in unknown.stderr
    assert run(*arguments, "--model", "two").exit_code == 0


def test_a_model_without_a_chat_template_is_asked_completions(
    run: Run, script: Script, url: str, file: Path, tmp_path: Path
) -> None:
    usual = script.otherwise

    def no_chat(handler: Handler, body: dict[str, Any]) -> None:
        if "messages" in body:
            handler.answer({"error": {"message": "no chat template"}}, 400)
        else:
            usual(handler, body)

    script.otherwise = no_chat
    done = run("eval", "jsonl", file, "--url", url, "--arms", "base", *FEW, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "no chat template" in done.stdout
    assert sum("messages" in call.body for call in script.calls) == 1


def test_what_is_wrong_with_files_of_prompts_is_told_and_kept(run: Run, url: str, file: Path, tmp_path: Path) -> None:
    ordinary = tmp_path / "chat.jsonl"
    prompts = ["Hello there", "hello  there", "", EDITS[0]["prompt"], *(f"Say {number}." for number in range(5))]
    ordinary.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    out = tmp_path / "run"
    arguments = ("eval", "jsonl", file, "--url", url, "--arms", "base", "--edits", "2", "--protocols", "fire")
    done = run(*arguments, "--ordinary", ordinary, "--out", out)
    assert done.exit_code == 0, done.output
    assert "chat.jsonl: 7 prompts" in done.stderr
    assert "  1 duplicate_prompt: " in done.stderr
    told = json.loads((out / "run.json").read_text())
    [kept] = told["dataset"]["files"]
    assert kept["prompts"] == 7
    assert {defect["kind"]: defect["count"] for defect in kept["defects"]} == {"empty_prompt": 1, "duplicate_prompt": 1}
    assert "1 questions of the stream are not asked: ordinary edited prompt." in told["notes"]
    assert told["asking"] == {"concurrency": 16, "timeout_s": 120.0, "attempts": 12, "patience_s": 900.0}
    assert "chat.jsonl" in (out / "report.html").read_text()
