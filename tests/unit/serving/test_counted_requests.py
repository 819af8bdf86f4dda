"""What becomes of requests is counted, each answer once, and for its own codebook only."""

import pytest
from prometheus_client import CollectorRegistry

from horen_vllm.serving.metrics import ServingMetrics
from tests.unit.serving.doubles import Clock, served_books
from tests.unit.serving.tapped import Server

PATH = "/v1/completions"


class Counted:
    """A server and its counters."""

    def __init__(self) -> None:
        self.clock, self.registry = Clock(), CollectorRegistry()
        self.server = Server(served_books("facts", clock=self.clock), ServingMetrics(self.registry))

    def ask(self, model: str, path: str = PATH, prompt: str = "hello", **body: object) -> int:
        return self.server.post(path, None, **{"model": model, "prompt": prompt, "n": 1, **body}).status_code

    def counts(self) -> dict[tuple[str, ...], float]:
        """Return every counter with labels: the end of its name, codebook and code."""
        return {
            (
                family.name.removeprefix("horen_requests_"),
                *(value for _, value in sorted(sample.labels.items())),
            ): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if family.type == "counter" and sample.labels and sample.name.endswith("_total")
        }


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_each_choice_counts_once_however_often_it_is_reported(counted: Counted) -> None:
    assert counted.ask("base@facts", n=3) == 200
    assert counted.counts() == {
        ("routed", "facts", "default"): 3.0,
        ("matched", "facts", "default"): 2.0,
        ("unmatched", "facts", "default"): 1.0,
    }


def test_the_clean_model_is_not_counted(counted: Counted) -> None:
    assert counted.ask("base") == 200
    assert counted.ask("nonsense") == 200
    assert counted.counts() == {}


def test_an_explanation_is_nobodys_request(counted: Counted) -> None:
    assert counted.ask("base@facts", "/horen/v1/explain") == 200
    assert counted.ask("base@nobody", "/horen/v1/explain") == 404
    assert counted.ask("base@facts", "/horen/v1/explain", "refuse me") == 400
    assert counted.counts() == {}


def test_refusals_count_before_and_behind_the_middleware(counted: Counted) -> None:
    assert counted.ask("base@facts", use_beam_search=True) == 400
    assert counted.ask("base@facts", prompt="refuse me") == 400
    counted.clock.now += 31.0
    assert counted.ask("base@facts") == 503
    assert counted.counts() == {
        ("refused", "unsupported_parameter", "facts", "default"): 1.0,
        ("refused", "empty_query_span", "facts", "default"): 1.0,
        ("refused", "replica_stale", "facts", "default"): 1.0,
    }


def test_a_name_that_a_client_makes_up_is_no_label(counted: Counted) -> None:
    for number in range(3):
        assert counted.ask(f"base@nobody{number}") == 404
    assert counted.counts() == {("refused", "unknown_codebook", "", "default"): 3.0}
