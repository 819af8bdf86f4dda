"""What ``GET /horen/v1/status`` says, and to whom."""

from horen_vllm.core.presets import SpanMode
from horen_vllm.ids import DEFAULT_TENANT, CodebookName, TenantId
from horen_vllm.serving.codebooks import ServedCodebook
from horen_vllm.serving.state import AgentState, CodebookState, Probe, ProbeFailure, Refusal
from horen_vllm.serving.status import status_body
from tests.unit.serving.doubles import Clock, name_of, served_books

OTHER = CodebookName(TenantId("other"), "theirs")


def test_a_server_that_is_not_ready_serves_nothing() -> None:
    body = status_body("r1", None, None, DEFAULT_TENANT)
    assert body == {"replica_id": "r1", "stale": True, "lease_age_s": None, "codebooks": {}}


def test_each_codebook_says_where_it_is_and_what_went_wrong() -> None:
    failure = ProbeFailure(
        probe=Probe(edit_id="e1", prompt_ids=(1,), target_ids=(2,)), base=1, revision=2, reason="no edit fired."
    )
    refused = Refusal(revision=3, code="capacity_exhausted", message="Full.")
    codebook = CodebookState(applied=2, probed=2, latest=3, refused=refused, failed=(failure,), without_probe=4)
    clock = Clock()
    served = served_books(clock=clock)
    clock.now += 1.5
    state = AgentState(codebooks={name_of("a"): codebook, OTHER: CodebookState(applied=9)})
    body = status_body("r1", served, state, DEFAULT_TENANT)
    assert (body["stale"], body["lease_age_s"]) == (False, 1.5)
    assert body["codebooks"] == {
        "a": {
            "revision": 2,
            "latest": 3,
            "probed": 2,
            "refused": {"revision": 3, "code": "capacity_exhausted", "message": "Full."},
            "failed_probes": [{"edit_id": "e1", "code": "probe_failed", "message": "no edit fired."}],
            "without_probe": 4,
        }
    }
    assert list(status_body("r1", served, state, OTHER.tenant)["codebooks"]) == ["theirs"]
    assert status_body("r1", served, state, None)["codebooks"] == {}


def test_static_codebooks_are_never_stale() -> None:
    clock = Clock()
    served = served_books(clock=clock, touch=False)
    served.show_static(
        [ServedCodebook(name=name_of("a"), revision=5, window_ratio=0.5, span=SpanMode.PROMPT)],
    )
    clock.now += 1e9
    body = status_body("r1", served, None, DEFAULT_TENANT)
    assert (body["stale"], body["codebooks"]["a"]["revision"]) == (False, 5)
    tag = served.resolve("base@a")
    assert tag is not None
    assert tag.codebook == str(name_of("a"))
