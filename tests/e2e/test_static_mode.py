"""Codebooks out of a folder, served by ``LLM()`` without a registry."""

from pathlib import Path
from typing import Any

import pytest

from horen_vllm.errors import HorenError
from horen_vllm.fingerprint import model_fingerprint
from tests.e2e import mixed
from tests.e2e.engines import engine, stepped_engine
from tests.e2e.oracle import Oracle, OracleBook
from tests.e2e.static_folder import REVISION, save

pytestmark = [pytest.mark.engine, pytest.mark.matrix]


def test_both_codebooks_of_a_folder_are_served_from_the_first_request(
    model_folder: str, site: str, tmp_path: Path
) -> None:
    oracle = Oracle(model_folder, site)
    texts = mixed.prompts(seed=31)
    by_name = mixed.books(oracle, texts, seed=31)
    for name, book in by_name.items():
        save(tmp_path, name, book, model_fingerprint(model_folder, site))
    requests = mixed.cases(texts, seed=31)
    options: dict[str, Any] = {"dtype": "float32", "enforce_eager": True, "max_num_batched_tokens": 32}
    with engine(model_folder, site, horen={"static_dir": str(tmp_path / "static")}, **options) as llm:
        served = mixed.serve(llm, requests)
    mixed.compare(oracle, served, requests, by_name, revision=REVISION).check()


def test_a_folder_for_another_model_keeps_the_engine_from_starting(
    model_folder: str, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_PLUGINS", "horen")
    save(tmp_path, mixed.CODEBOOK_A, OracleBook((), threshold=0.9), "another model's")
    horen = {"static_dir": str(tmp_path / "static")}
    with (
        pytest.raises(HorenError) as caught,
        stepped_engine(model_folder, site, horen=horen, dtype="float32", enforce_eager=True),
    ):
        pass
    assert caught.value.code == "fingerprint_mismatch"
