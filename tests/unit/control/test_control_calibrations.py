"""Calibrations over real gRPC, and the parameters that codebooks take from them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from horen_vllm.control._pb.horen.v1 import codebooks_pb2
from horen_vllm.control.client import HorenClient
from horen_vllm.control.names import requested_calibration
from horen_vllm.control.server import ControlServer, serve
from horen_vllm.control.settings import ControlSettings
from horen_vllm.core.presets import BUILT_IN, MethodParameters, preset_parameters
from horen_vllm.errors import FailedPrecondition, HorenError, InvalidArgument, NotFound
from horen_vllm.registry.models import CalibrationRecord
from horen_vllm.registry.ports import Registry

FINGERPRINT = "f" * 64
SITE = "model.layers.1.mlp.down_proj"

COSINE = replace(
    preset_parameters("cosine", "demo-model", 0.91), background="b" * 64, false_fire_rate=0.01, anchored_threshold=0.4
)
CALIBRATED = replace(
    COSINE, preset="calibrated", threshold=0.1 + 0.2, space="a" * 64, anchors=True, mask_subject=True, window_ratio=0.5
)
PAPER = preset_parameters("horen-paper", "demo-model", 0.8)

Calibrate = Callable[..., CalibrationRecord]


@pytest.fixture
def calibrate(registry: Registry) -> Calibrate:
    """Stores a calibration of the served model."""

    def store(fingerprint: str = FINGERPRINT, site: str = SITE, **fields: Any) -> CalibrationRecord:
        presets = {"cosine": COSINE, "calibrated": CALIBRATED, "horen-paper": PAPER}
        given = {"presets": presets, "recommended": "calibrated", "summary": {"auc": 0.1 + 0.2}, **fields}
        return registry.add_calibration(fingerprint=fingerprint, site=site, **given)

    return store


def created(client: HorenClient, **options: Any) -> MethodParameters:
    return client.create_codebook("demo", **options).parameters


def test_calibrations_come_back_as_they_were_stored(client: HorenClient, calibrate: Calibrate) -> None:
    first, second = calibrate(), calibrate(recommended="cosine", summary={})
    calibrate(fingerprint="0" * 64)
    assert client.get_calibration() == second
    assert client.get_calibration(1) == first
    assert list(client.list_calibrations()) == [first, second]
    third = calibrate()
    assert list(client.list_calibrations(page_size=1)) == [first, second, third]
    assert list(client.list_calibrations(page_size=3)) == [first, second, third]


@pytest.mark.parametrize(("version", "code"), [(None, "unknown_calibration"), (4, "unknown_calibration")])
def test_an_unknown_calibration_is_refused(client: HorenClient, version: int | None, code: str) -> None:
    with pytest.raises(NotFound) as caught:
        client.get_calibration(version)
    assert caught.value.code == code
    assert list(client.list_calibrations()) == []


@pytest.mark.parametrize("name", ["calibrations/0", "calibrations/x", "calibrations/1/2", "1", "", "c" * 500])
def test_other_names_are_no_calibrations(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        requested_calibration(name)
    assert caught.value.code == "invalid_name"


def test_without_a_preset_the_newest_calibration_decides(client: HorenClient, calibrate: Calibrate) -> None:
    calibrate(recommended="cosine")
    calibrate()
    assert created(client) == CALIBRATED
    calibrate(recommended="horen-paper")
    assert client.create_codebook("paper", preset="").parameters == PAPER


def test_a_calibrated_preset_is_as_it_was_found(client: HorenClient, calibrate: Calibrate) -> None:
    calibrate()
    assert created(client, preset="cosine") == COSINE
    assert client.create_codebook("paper", preset="horen-paper").parameters == PAPER
    assert client.create_codebook("best", preset="calibrated").parameters == CALIBRATED


def test_a_codebook_keeps_its_parameters_when_a_calibration_follows(client: HorenClient, calibrate: Calibrate) -> None:
    calibrate()
    before = client.create_codebook("demo")
    calibrate(recommended="cosine")
    assert client.get_codebook("demo") == before


@pytest.mark.parametrize("preset", BUILT_IN)
def test_an_explicit_threshold_needs_no_calibration(client: HorenClient, calibrate: Calibrate, preset: str) -> None:
    calibrate()
    assert created(client, preset=preset, threshold=0.7) == preset_parameters(preset, "demo-model", 0.7)


def test_an_explicit_threshold_of_a_calibrated_space_is_fixed(client: HorenClient, calibrate: Calibrate) -> None:
    calibrate()
    fixed = replace(CALIBRATED, threshold=0.7, background=None, false_fire_rate=None)
    assert created(client, threshold=0.7) == fixed
    assert client.create_codebook("named", preset="calibrated", threshold=0.7).parameters == fixed


@pytest.mark.parametrize("options", [{}, {"preset": ""}, {"threshold": 0.9}, {"preset": "calibrated"}])
def test_what_only_a_calibration_knows_needs_one(
    client: HorenClient, calibrate: Calibrate, options: dict[str, Any]
) -> None:
    calibrate(fingerprint="0" * 64)
    calibrate(site="model.layers.0.mlp.down_proj")
    with pytest.raises(FailedPrecondition, match="run `horen calibrate`") as caught:
        created(client, **options)
    assert caught.value.code == "calibration_required"
    assert list(client.list_codebooks()) == []


def test_a_missing_calibration_is_answered_with_the_choices(client: HorenClient) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        created(client)
    assert all(preset in caught.value.message for preset in BUILT_IN)


def test_a_calibration_without_the_calibrated_preset_does_not_stand_for_it(
    client: HorenClient, calibrate: Calibrate
) -> None:
    calibrate(presets={"cosine": COSINE}, recommended="cosine")
    with pytest.raises(FailedPrecondition) as caught:
        created(client, preset="calibrated")
    assert caught.value.code == "calibration_required"
    assert created(client) == COSINE


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"false_fire_rate": 0.2}, replace(CALIBRATED, false_fire_rate=0.2)),
        ({"anchors": False}, replace(CALIBRATED, anchors=False, mask_subject=False)),
        ({"mask_subject": False}, replace(CALIBRATED, mask_subject=False)),
        ({"anchored_threshold": -0.5}, replace(CALIBRATED, anchored_threshold=-0.5)),
        ({"window_ratio": 0.5, "rank": 4}, replace(CALIBRATED, rank=4)),
        ({"preset": "cosine", "anchors": True}, replace(COSINE, anchors=True)),
        (
            {"preset": "cosine", "anchors": True, "mask_subject": True, "false_fire_rate": 0.05},
            replace(COSINE, anchors=True, mask_subject=True, false_fire_rate=0.05),
        ),
    ],
)
def test_a_request_replaces_what_a_calibration_found(
    client: HorenClient, calibrate: Calibrate, options: dict[str, Any], parameters: MethodParameters
) -> None:
    calibrate()
    assert created(client, **options) == parameters
    assert client.get_codebook("demo").parameters == parameters


def test_anchors_without_a_calibration_have_the_threshold_too(client: HorenClient) -> None:
    plain = preset_parameters("cosine", "demo-model", 0.8)
    made = created(client, preset="cosine", threshold=0.8, anchors=True, mask_subject=True)
    assert made == replace(plain, anchors=True, mask_subject=True, anchored_threshold=0.8)
    own = client.create_codebook("own", preset="cosine", threshold=0.8, anchors=True, anchored_threshold=0.0)
    assert own.parameters == replace(plain, anchors=True)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (
            {"false_fire_rate": 0.0},
            "invalid_parameter",
            "false_fire_rate is 0.0; it must be more than 0 and at most 0.2.",
        ),
        ({"false_fire_rate": 0.21}, "invalid_parameter", "false_fire_rate is 0.21"),
        ({"false_fire_rate": float("nan")}, "invalid_parameter", "false_fire_rate is nan"),
        ({"false_fire_rate": 0.01, "threshold": 0.9}, "invalid_parameter", "here it is fixed"),
        ({"false_fire_rate": 0.01, "preset": "horen-paper"}, "invalid_parameter", "here it is fixed"),
        ({"anchored_threshold": 1.5}, "invalid_threshold", "anchored_threshold is 1.5; it must be a cosine, -1 to 1."),
        ({"mask_subject": True, "preset": "cosine"}, "invalid_parameter", "mask_subject needs anchors."),
        ({"mask_subject": True, "anchors": False}, "invalid_parameter", "mask_subject needs anchors."),
        ({"anchors": True, "preset": "grace"}, "invalid_parameter", "anchors are for presets that compare by cosine"),
        ({"window_ratio": 0.6}, "invalid_window_ratio", "window_ratio is 0.5 in the calibration"),
        ({"window_ratio": 0.5, "preset": "cosine"}, "invalid_window_ratio", "window_ratio is 0.6 in the calibration"),
        ({"preset": "best"}, "unknown_preset", "choose one of"),
    ],
)
def test_create_refuses_what_does_not_fit(
    client: HorenClient, calibrate: Calibrate, options: dict[str, Any], code: str, said: str
) -> None:
    calibrate()
    with pytest.raises(HorenError) as caught:
        created(client, **options)
    assert (type(caught.value), caught.value.code) == (InvalidArgument, code)
    assert said in caught.value.message
    assert list(client.list_codebooks()) == []


def test_other_readers_find_the_parameters_in_fields(server: ControlServer, calibrate: Calibrate) -> None:
    calibrate()
    messages: list[codebooks_pb2.Codebook] = []
    with HorenClient(server.address) as client:
        client.create_codebook("a")
        client.create_codebook("b", preset="cosine", threshold=0.5)
        request = codebooks_pb2.ListCodebooksRequest(parent="tenants/default")
        messages += client._codebooks.ListCodebooks(request).codebooks
    assert [(it.false_fire_rate, it.anchors, it.anchored_threshold, it.mask_subject, it.space) for it in messages] == [
        (0.01, True, 0.4, True, "a" * 64),
        (0.0, False, 0.0, False, ""),
    ]


def test_another_base_model_has_its_own_calibrations(
    registry: Registry, settings: ControlSettings, calibrate: Calibrate
) -> None:
    calibrate()
    with serve(registry, replace(settings, fingerprint="0" * 64)) as other, HorenClient(other.address) as client:
        assert list(client.list_calibrations()) == []
