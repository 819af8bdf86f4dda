"""Certificates on both ends: who speaks to whom, and what happens when one is renewed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from horen_vllm.control.client import ClientTls, HorenClient
from horen_vllm.control.server import ControlServer, check_reach, serve
from horen_vllm.control.settings import ControlAuth, ControlSettings, ServerTls
from horen_vllm.control.tls import ServerCertificates
from horen_vllm.errors import FailedPrecondition, HorenError, Unavailable
from horen_vllm.registry.store import SqlRegistry
from tests.unit.control.secure.authority import Authority, Pair

Start = Callable[..., ControlServer]
Dial = Callable[..., HorenClient]


def answers(client: HorenClient) -> bool:
    """Return whether the server lets the client in."""
    try:
        return list(client.list_codebooks()) == []
    except Unavailable as error:
        return error.code != "control_unavailable"


def test_a_client_that_trusts_the_ca_is_answered(start: Start, dial: Dial, pair: Pair, authority: Authority) -> None:
    server = start(pair)
    assert answers(dial(server, tls=ClientTls(ca=authority.root)))


def test_a_clear_text_client_is_not_understood(start: Start, dial: Dial, pair: Pair) -> None:
    assert not answers(dial(start(pair)))


def test_a_tls_client_of_a_clear_text_server_gives_up(server: ControlServer, dial: Dial, authority: Authority) -> None:
    assert not answers(dial(server, tls=ClientTls(ca=authority.root)))


def test_a_client_with_another_ca_gives_up(start: Start, dial: Dial, pair: Pair, stranger: Authority) -> None:
    assert not answers(dial(start(pair), tls=ClientTls(ca=stranger.root)))


def test_an_expired_server_certificate_is_refused(start: Start, dial: Dial, authority: Authority) -> None:
    expired = authority.issue(lifetime=timedelta(hours=-1))
    assert not answers(dial(start(expired), tls=ClientTls(ca=authority.root)))


@pytest.mark.parametrize(("name", "fits"), [("control.example", True), ("other.example", False)])
def test_the_certificate_must_bear_the_name(
    start: Start, dial: Dial, pair: Pair, authority: Authority, name: str, fits: bool
) -> None:
    assert answers(dial(start(pair), tls=ClientTls(ca=authority.root, server_name=name))) is fits


def test_mutual_tls_wants_a_certificate_of_its_own_ca(
    start: Start, dial: Dial, pair: Pair, authority: Authority, stranger: Authority
) -> None:
    server = start(pair, client_ca=authority.root)
    ours, theirs, old = authority.issue(), stranger.issue(), authority.issue(lifetime=timedelta(hours=-1))
    tls = ClientTls(ca=authority.root)
    assert answers(dial(server, tls=replace(tls, cert=ours.cert, key=ours.key)))
    assert not answers(dial(server, tls=tls))
    assert not answers(dial(server, tls=replace(tls, cert=theirs.cert, key=theirs.key)))
    assert not answers(dial(server, tls=replace(tls, cert=old.cert, key=old.key)))


def test_a_renewed_certificate_is_shown_to_new_clients_and_old_connections_stay(
    start: Start, dial: Dial, pair: Pair, authority: Authority, stranger: Authority
) -> None:
    server = start(pair)
    old, new = ClientTls(ca=authority.root), ClientTls(ca=stranger.root)
    standing = dial(server, tls=old)
    assert answers(standing)
    assert not answers(dial(server, tls=new))
    pair.replace_by(stranger.issue())
    assert answers(dial(server, tls=new))
    assert not answers(dial(server, tls=old))
    assert answers(standing)


def test_a_half_renewed_certificate_changes_nothing_and_is_told(
    start: Start, dial: Dial, pair: Pair, authority: Authority, stranger: Authority
) -> None:
    server, renewed = start(pair), stranger.issue()
    tls = ClientTls(ca=authority.root)
    with capture_logs() as logs:
        renewed.key.replace(pair.key)
        assert answers(dial(server, tls=tls))
        pair.cert.unlink()
        assert answers(dial(server, tls=tls))
    assert {line["code"] for line in logs if line["event"] == "certificate not renewed"} == {"invalid_tls"}
    renewed.cert.replace(pair.cert)
    assert answers(dial(server, tls=ClientTls(ca=stranger.root)))


def broken(pair: Pair, authority: Authority) -> Iterator[ServerTls]:
    other, nothing, text = authority.issue(), pair.cert.with_name("nothing.pem"), pair.cert.with_name("text.pem")
    text.write_text("no certificate")
    yield ServerTls(cert=nothing, key=pair.key)
    yield ServerTls(cert=pair.cert, key=nothing)
    yield ServerTls(cert=pair.cert, key=pair.cert.parent)
    yield ServerTls(cert=text, key=pair.key)
    yield ServerTls(cert=pair.cert, key=text)
    yield ServerTls(cert=pair.cert, key=other.key)
    yield ServerTls(cert=pair.cert, key=pair.key, client_ca=nothing)
    yield ServerTls(cert=pair.cert, key=pair.key, client_ca=text)


def test_files_that_cannot_be_used_stop_the_start(
    registry: SqlRegistry, settings: ControlSettings, pair: Pair, authority: Authority
) -> None:
    for files in broken(pair, authority):
        with pytest.raises(FailedPrecondition) as caught:
            serve(registry, replace(settings, tls=files))
        assert caught.value.code == "invalid_tls"
        assert str(pair.cert.parent) in caught.value.message
    with pytest.raises(FailedPrecondition, match="not the certificate's"):
        ServerCertificates(ServerTls(cert=pair.cert, key=authority.issue().key))


def test_a_clients_files_are_checked_before_it_dials(pair: Pair, authority: Authority) -> None:
    other, nothing = authority.issue(), pair.cert.with_name("nothing.pem")
    for files in (
        ClientTls(ca=nothing),
        ClientTls(ca=pair.key),
        ClientTls(cert=pair.cert),
        ClientTls(key=pair.key),
        ClientTls(cert=pair.cert, key=other.key),
    ):
        with pytest.raises(HorenError) as caught:
            HorenClient("127.0.0.1:1", tls=files)
        assert caught.value.code == "invalid_tls"


@pytest.mark.parametrize("auth", ControlAuth)
@pytest.mark.parametrize("encrypted", [True, False])
def test_beyond_this_machine_only_with_keys_and_tls(pair: Pair, auth: ControlAuth, encrypted: bool) -> None:
    tls = ServerTls(cert=pair.cert, key=pair.key) if encrypted else None
    check_reach("127.0.0.1", auth, tls)
    if auth is ControlAuth.KEYS and encrypted:
        check_reach("0.0.0.0", auth, tls)
        return
    with pytest.raises(FailedPrecondition) as caught:
        check_reach("0.0.0.0", auth, tls)
    assert caught.value.code == "insecure_bind"
