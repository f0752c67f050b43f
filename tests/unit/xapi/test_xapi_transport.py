# SPDX-License-Identifier: Apache-2.0
"""Connections: kept, verified, timed out, and honest about what was lost."""

import socket
import socketserver
import threading
import time

import pytest

from tests.unit.xapi import fake_xapi
from xenapi_driver.xapi import errors, transport, wire

PING = wire.call("system.listMethods", ())


@pytest.fixture
def certificate(tmp_path):
    return fake_xapi.Certificate(tmp_path)


@pytest.fixture
def door(fake):
    fake.methods["system.listMethods"] = ["VM.start"]
    door = fake_xapi.HttpDoor(fake)
    yield door
    door.close()


@pytest.fixture
def tls_door(fake, certificate):
    fake.methods["system.listMethods"] = ["VM.start"]
    door = fake_xapi.HttpDoor(fake, certificate)
    yield door
    door.close()


def ping(carrier):
    try:
        return wire.answer(carrier.request(PING))
    finally:
        carrier.close()


def test_one_connection_serves_many_requests(door):
    carrier = transport.HttpTransport(door.url)
    for _time in range(3):
        assert wire.answer(carrier.request(PING)) == ["VM.start"]
    assert door.connections == 1
    carrier.close()


def test_connection_closed_while_idle_is_replaced_unnoticed(door):
    carrier = transport.HttpTransport(door.url)
    carrier.request(PING)
    door.drop_connections()
    assert ping(carrier) == ["VM.start"]
    assert door.connections == 2


def test_idle_tls_connection_closed_by_the_host_is_replaced(tls_door, certificate):
    verify = transport.Verify(ca_file=certificate.file)
    carrier = transport.HttpTransport(tls_door.url, verify)
    carrier.request(PING)
    assert wire.answer(carrier.request(PING)) == ["VM.start"]
    assert tls_door.connections == 1
    tls_door.drop_connections()
    assert ping(carrier) == ["VM.start"]


def test_cut_before_the_answer_may_have_begun(door):
    door.misbehave = ["close"]
    with pytest.raises(errors.ConnectionLost) as caught:
        ping(transport.HttpTransport(door.url))
    assert caught.value.begun


def test_slow_answer_is_lost_after_the_read_timeout(door):
    door.misbehave = ["hang"]
    door.hang_seconds = 0.5
    carrier = transport.HttpTransport(door.url, None, transport.Timeouts(5.0, 0.1))
    with pytest.raises(errors.ConnectionLost, match=r"within 0.1 seconds"):
        ping(carrier)


def test_interrupt_wakes_a_thread_that_waits(door):
    door.misbehave = ["hang"]
    carrier = transport.HttpTransport(door.url)
    caught = []

    def wait():
        try:
            carrier.request(PING)
        except errors.ConnectionLost as exc:
            caught.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    while door.misbehave:
        time.sleep(0.01)
    carrier.interrupt()
    thread.join(1.0)
    assert not thread.is_alive()
    assert len(caught) == 1


def test_closed_port_is_unreachable_and_says_where():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://root:hidden@127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(errors.HostUnreachable) as caught:
        ping(transport.HttpTransport(url))
    assert "127.0.0.1" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_http_error_is_a_bad_answer(door):
    door.misbehave = [503]
    with pytest.raises(errors.BadAnswer, match="503"):
        ping(transport.HttpTransport(door.url))


@pytest.mark.parametrize("url", ["ftp://host", "host", "https://"])
def test_other_urls_are_refused(url):
    with pytest.raises(ValueError, match="URL"):
        transport.HttpTransport(url)


def test_self_signed_certificate_is_refused_by_its_fingerprint(tls_door, certificate):
    with pytest.raises(errors.CertificateRefused) as caught:
        ping(transport.HttpTransport(tls_door.url))
    seen = caught.value.fingerprint.replace(":", "").lower()
    assert seen == certificate.fingerprint
    assert caught.value.fingerprint in str(caught.value)
    assert "connection_fingerprints" in str(caught.value)


def test_named_fingerprint_is_trusted(tls_door, certificate):
    verify = transport.Verify(fingerprints=("00" * 32, certificate.fingerprint))
    assert ping(transport.HttpTransport(tls_door.url, verify)) == ["VM.start"]


def test_fingerprint_of_the_error_can_be_configured_as_it_is(tls_door):
    with pytest.raises(errors.CertificateRefused) as caught:
        ping(transport.HttpTransport(tls_door.url))
    verify = transport.Verify(fingerprints=(caught.value.fingerprint,))
    assert ping(transport.HttpTransport(tls_door.url, verify)) == ["VM.start"]


def test_other_fingerprint_is_refused_before_anything_is_sent(tls_door, fake):
    verify = transport.Verify(fingerprints=("00" * 32,))
    with pytest.raises(errors.CertificateRefused):
        ping(transport.HttpTransport(tls_door.url, verify))
    assert fake.calls == []


def test_ca_file_is_trusted(tls_door, certificate):
    verify = transport.Verify(ca_file=certificate.file)
    assert ping(transport.HttpTransport(tls_door.url, verify)) == ["VM.start"]


def test_ca_certificate_for_another_address_is_refused(fake, tmp_path):
    other = fake_xapi.Certificate(tmp_path, "192.0.2.1")
    door = fake_xapi.HttpDoor(fake, other)
    try:
        with pytest.raises(errors.CertificateRefused, match="IP address"):
            verify = transport.Verify(ca_file=other.file)
            ping(transport.HttpTransport(door.url, verify))
    finally:
        door.close()


def test_missing_ca_file_is_named(tls_door):
    verify = transport.Verify(ca_file="/nowhere/ca.pem")
    with pytest.raises(errors.CertificateRefused, match="/nowhere/ca.pem"):
        ping(transport.HttpTransport(tls_door.url, verify))


def test_insecure_takes_any_certificate(tls_door):
    verify = transport.Verify(insecure=True)
    assert ping(transport.HttpTransport(tls_door.url, verify)) == ["VM.start"]


def test_tls_to_a_plain_port_is_refused_in_words(door):
    url = door.url.replace("http:", "https:")
    with pytest.raises(errors.CertificateRefused, match="TLS"):
        ping(transport.HttpTransport(url))


def test_elsewhere_keeps_scheme_port_and_trust(tls_door, certificate):
    verify = transport.Verify(fingerprints=(certificate.fingerprint,))
    carrier = transport.HttpTransport(
        tls_door.url.replace("127.0.0.1", "localhost"), verify
    )
    assert ping(carrier.elsewhere("127.0.0.1")) == ["VM.start"]
    assert "127.0.0.1" in carrier.addresses()


def test_unix_socket_carries_calls(fake, tmp_path):
    fake.methods["system.listMethods"] = ["VM.start"]

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            length = 0
            while (line := self.rfile.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            answer = fake.handle(self.rfile.read(length))
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n"
            self.wfile.write(head.encode() + answer)

    path = str(tmp_path / "xapi")
    with socketserver.UnixStreamServer(path, Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert ping(transport.connect(f"unix://{path}")) == ["VM.start"]
        thread.join()


def test_missing_unix_socket_is_unreachable(tmp_path):
    with pytest.raises(errors.HostUnreachable, match="No such file"):
        ping(transport.UnixTransport(str(tmp_path / "xapi")))
