# SPDX-License-Identifier: Apache-2.0
"""Connections: kept, verified, timed out, and honest about what was lost."""

import contextlib
import datetime
import ipaddress
import socket
import threading
import time
import xmlrpc.client
from unittest import mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from xenapi_driver.sim import Simulator
from xenapi_driver.xapi import errors, transport
from xenapi_driver.xapi.certificates import Verify
from xenapi_driver.xapi.transport import HttpTransport, Timeouts

LOGIN = "session.login_with_password"
PING = (
    "/",
    "text/xml",
    xmlrpc.client.dumps(("root", "secret", "1.0", "test"), LOGIN).encode(),
)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def sim(tmp_path_factory):
    simulator = Simulator(tmp_path_factory.mktemp("host"))
    yield simulator
    simulator.close()


@pytest.fixture
def door(sim):
    server = sim.serve()
    yield server
    sim.faults.clear()
    server.close()


@pytest.fixture
def tls_door(sim):
    server = sim.serve(tls=True)
    yield server
    sim.faults.clear()
    server.close()


@pytest.fixture
def dialled():
    """The connections that were opened."""
    with mock.patch.object(
        transport.socket, "create_connection", side_effect=socket.create_connection
    ) as opened:
        yield opened


def asked(carrier):
    """Ask once more, and return whether the host let us in."""
    answer = carrier.request(*PING)
    assert answer.url == carrier.url
    ((envelope,), _name) = xmlrpc.client.loads(answer.body)
    return envelope["Status"] == "Success"


def ping(carrier):
    with contextlib.closing(carrier):
        return asked(carrier)


def certificate(folder, address="127.0.0.1", begin=-DAY, end=DAY):
    """Return a self-signed certificate's file, its key in it, and its fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a host")])
    names = [x509.IPAddress(ipaddress.ip_address(address))]
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "shown.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file, made.fingerprint(hashes.SHA256()).hex()


# One connection


def test_one_connection_serves_many_requests(door, dialled):
    carrier = HttpTransport(door.url)
    with contextlib.closing(carrier):
        assert all(asked(carrier) for _time in range(3))
    assert dialled.call_count == 1


@pytest.mark.parametrize("tls", [False, True])
def test_connection_closed_while_idle_is_replaced_unnoticed(sim, dialled, tls):
    door = sim.serve(tls=tls)
    with contextlib.closing(door):
        carrier = HttpTransport(door.url, Verify(insecure=True))
        asked(carrier)
        asked(carrier)
        assert dialled.call_count == 1
        door.cut()
        time.sleep(0.1)
        assert ping(carrier)
        assert dialled.call_count == 2


def test_cut_before_the_answer_may_have_begun(sim, door):
    sim.faults.add(LOGIN, action="cut")
    with pytest.raises(errors.ConnectionLost) as caught:
        ping(HttpTransport(door.url))
    assert caught.value.begun


def test_slow_answer_is_lost_after_the_read_timeout(sim, door):
    sim.faults.add(LOGIN, delay=0.5)
    carrier = HttpTransport(door.url, None, Timeouts(5.0, 0.1))
    with pytest.raises(errors.ConnectionLost, match=r"within 0.1 seconds"):
        ping(carrier)


def test_one_request_may_have_less_patience(sim, door):
    sim.faults.add(LOGIN, delay=0.5)
    carrier = HttpTransport(door.url)
    with pytest.raises(errors.ConnectionLost, match=r"within 0.1 seconds"):
        carrier.request(*PING, patience=0.1)
    # The others have as much as ever.
    sim.faults.add(LOGIN, delay=0.3)
    assert ping(carrier)


def test_patience_holds_for_the_connection_too():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        # It takes the connection and says nothing, so that TLS does not begin.
        with pytest.raises(errors.HostUnreachable, match="not begin TLS"):
            HttpTransport(url).request(*PING, patience=0.2)
        assert time.monotonic() - began < 5


@contextlib.contextmanager
def speaking(*parts, pause=0.0):
    """Give the address of what takes one request and answers in these parts."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            sock, _address = listening.accept()
            with sock, contextlib.suppress(OSError):
                sock.recv(65536)
                for part in parts:
                    sock.sendall(part)
                    time.sleep(pause)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join(5)


@pytest.mark.parametrize("at", ["head", "body"])
def test_answer_that_trickles_is_given_up(at):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n"
    parts = [head, b"X-Slow: "] if at == "head" else [head, b"\r\n"]
    with speaking(*parts, *[b"a"] * 100, pause=0.05) as address:
        began = time.monotonic()
        carrier = HttpTransport(f"http://{address}", None, Timeouts(5.0, 0.3))
        with pytest.raises(errors.AnswerLate, match=r"within 0.3 seconds"):
            ping(carrier)
        assert time.monotonic() - began < 3


def test_large_answer_has_longer_while_it_comes():
    count, part = 15, b"a" * 64 * 1024
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {count * len(part)}\r\n\r\n"
    with speaking(head.encode(), *[part] * count, pause=0.05) as address:
        carrier = HttpTransport(f"http://{address}", None, Timeouts(5.0, 0.3))
        with contextlib.closing(carrier):
            assert carrier.request(*PING).body == part * count


def test_interrupt_wakes_a_thread_that_waits(sim, door):
    sim.faults.add(LOGIN, action="hang")
    carrier = HttpTransport(door.url)
    caught = []

    def wait():
        try:
            carrier.request(*PING)
        except errors.ConnectionLost as exc:
            caught.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 10
    while sim.faults.rules() and time.monotonic() < deadline:
        time.sleep(0.01)
    carrier.interrupt()
    thread.join(5.0)
    assert not thread.is_alive()
    assert len(caught) == 1


def test_http_error_is_a_bad_answer_with_its_status(door):
    carrier = HttpTransport(door.url)
    with pytest.raises(errors.BadAnswer, match="HTTP status 500") as caught:
        carrier.request("/", "text/xml", b"nonsense")
    assert caught.value.status == 500


def test_headers_are_few_and_name_us(sim):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        heads = []

        def listen():
            sock, _address = listening.accept()
            with sock:
                heads.append(sock.recv(65536).partition(b"\r\n\r\n")[0])

        thread = threading.Thread(target=listen)
        thread.start()
        url = f"http://root:hidden@127.0.0.1:{listening.getsockname()[1]}/behind/"
        with pytest.raises(errors.ConnectionLost):
            HttpTransport(url).request("/jsonrpc", "application/json", b"{}")
        thread.join(5)
    (head,) = heads
    assert head.startswith(b"POST /behind/jsonrpc HTTP/1.1\r\n")
    assert b"User-Agent: xenapi-driver" in head
    # XAPI refuses more than 1024 bytes, and a long host name may come in.
    assert len(head) < 512
    assert b"hidden" not in head


def test_dialled_connection_is_verified_and_the_callers_own(tls_door):
    verify = Verify(fingerprints=(tls_door.fingerprint,))
    carrier = HttpTransport(tls_door.url, verify, Timeouts(5.0, 7.0))
    with carrier.dial() as sock:
        carrier.close()
        assert sock.gettimeout() == 7.0
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert sock.recv(1024).startswith(b"HTTP/1.")
    with pytest.raises(errors.CertificateRefused):
        HttpTransport(tls_door.url, Verify(fingerprints=("00" * 32,))).dial()


# Places


def test_closed_port_is_unreachable_and_says_where():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://root:hidden@127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(errors.HostUnreachable) as caught:
        ping(HttpTransport(url))
    assert "127.0.0.1" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://192.0.2.1", ("192.0.2.1", 443)),
        ("http://192.0.2.1", ("192.0.2.1", 80)),
        ("https://192.0.2.1:8443/", ("192.0.2.1", 8443)),
        ("https://[2001:db8::1]", ("2001:db8::1", 443)),
        ("http://[2001:db8::1]:81", ("2001:db8::1", 81)),
        ("http://[fe80::1%25eth0]", ("fe80::1%eth0", 80)),
        ("https://xcp-1.example.com", ("xcp-1.example.com", 443)),
        ("HTTPS://XCP-1.example.com:444", ("xcp-1.example.com", 444)),
    ],
)
def test_urls_name_a_place(url, where):
    refused = OSError(111, "refused")
    with (
        mock.patch.object(
            transport.socket, "create_connection", side_effect=refused
        ) as dialled,
        pytest.raises(errors.HostUnreachable),
    ):
        ping(transport.connect(url))
    assert dialled.call_args.args[0] == where


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "host", "https://", "https://h:port", "https://h:0", "http://[::1",
     "https://h:99999", "unix://here", "unix://"],
)  # fmt: skip
def test_other_urls_are_refused(url):
    with pytest.raises(ValueError, match="URL"):
        transport.connect(url)


@pytest.mark.parametrize(
    "url",
    ["https:root:secret@host", "root:secret@host", "https://root:secret/1@host",
     "https://root:secret@", "ftp://root:secret@host"],
)  # fmt: skip
def test_refused_url_does_not_tell_the_password(url):
    with pytest.raises(ValueError, match="URL") as caught:
        transport.connect(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_name_without_an_address_is_unreachable():
    with pytest.raises(errors.HostUnreachable, match="no-such-host.invalid"):
        ping(HttpTransport("http://no-such-host.invalid"))
    with pytest.raises(errors.HostUnreachable):
        ping(HttpTransport(f"http://{'long' * 20}.invalid"))


def test_ipv6_door_is_found(sim):
    try:
        door = sim.serve("::1")
    except OSError:
        pytest.skip("missing: IPv6 on the loopback interface")
    with contextlib.closing(door):
        carrier = HttpTransport(door.url)
        assert ping(carrier)
        assert carrier.addresses() == {"::1"}
        assert ping(HttpTransport(f"http://127.0.0.1:{door.port}").elsewhere("::1"))


def test_elsewhere_keeps_scheme_port_and_trust(tls_door):
    verify = Verify(fingerprints=(tls_door.fingerprint,))
    carrier = HttpTransport(f"https://localhost:{tls_door.port}", verify)
    assert ping(carrier.elsewhere("127.0.0.1"))
    assert "127.0.0.1" in carrier.addresses()


def test_unix_socket_carries_calls(sim, tmp_path):
    with contextlib.closing(sim.serve_unix(tmp_path / "xapi")):
        carrier = transport.connect(f"unix://{tmp_path}/xapi")
        assert ping(carrier)
        carrier.dial().close()
        with pytest.raises(errors.HostUnreachable, match="192.0.2.1; set its URL"):
            carrier.elsewhere("192.0.2.1")


def test_missing_unix_socket_is_unreachable(tmp_path):
    with pytest.raises(errors.HostUnreachable, match="No such file"):
        ping(transport.UnixTransport(str(tmp_path / "xapi")))
    assert transport.connect("unix://local").url == "unix:///var/lib/xcp/xapi"


def test_host_in_this_process(sim):
    carrier = transport.InProcessTransport(sim.handle)
    assert ping(carrier)
    with pytest.raises(errors.BadAnswer) as caught:
        carrier.request("/jsonrpc", "application/json", b"{}")
    assert caught.value.status == 404
    with pytest.raises(errors.HostUnreachable, match="in our process"):
        carrier.dial()
    sim.faults.add(LOGIN, action="cut")
    with pytest.raises(errors.ConnectionLost):
        ping(carrier)


# Certificates


def test_self_signed_certificate_is_refused_by_its_fingerprint(tls_door):
    with pytest.raises(errors.CertificateRefused) as caught:
        ping(HttpTransport(tls_door.url))
    assert caught.value.fingerprint == tls_door.fingerprint
    assert tls_door.fingerprint in str(caught.value)
    assert "self" in str(caught.value)
    assert "connection_fingerprints" in str(caught.value)
    assert "connection_ca_file" in str(caught.value)
    # It can be configured as it is shown.
    verify = Verify(fingerprints=(caught.value.fingerprint,))
    assert ping(HttpTransport(tls_door.url, verify))


def test_one_of_several_fingerprints_is_enough(tls_door, tmp_path):
    file, coming = certificate(tmp_path)
    verify = Verify(fingerprints=(tls_door.fingerprint.lower(), coming))
    carrier = HttpTransport(tls_door.url, verify)
    assert asked(carrier)
    tls_door.show(file, coming)
    tls_door.cut()
    time.sleep(0.1)
    assert ping(carrier)


def test_other_fingerprint_is_refused_before_anything_is_sent(sim, tls_door):
    seen = sim.requests.total
    with pytest.raises(errors.CertificateRefused, match="not among") as caught:
        ping(HttpTransport(tls_door.url, Verify(fingerprints=("00" * 32,))))
    assert tls_door.fingerprint in str(caught.value)
    assert sim.requests.total == seen


def test_ca_file_is_trusted(tls_door):
    verify = Verify(ca_file=str(tls_door.cert_file))
    assert ping(HttpTransport(tls_door.url, verify))


def test_ca_file_that_was_replaced_is_read_again(tls_door, tmp_path):
    file, fingerprint = certificate(tmp_path)
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(tls_door.cert_file.read_bytes())
    verify = Verify(ca_file=str(bundle))
    assert ping(HttpTransport(tls_door.url, verify))
    tls_door.show(file, fingerprint)
    with pytest.raises(errors.CertificateRefused):
        ping(HttpTransport(tls_door.url, verify))
    bundle.write_bytes(file.read_bytes())
    assert ping(HttpTransport(tls_door.url, verify))


@pytest.mark.parametrize(
    ("how", "reason", "remedy"),
    [
        ({"end": -DAY / 2}, "expired", "give the host a new certificate"),
        ({"address": "192.0.2.1"}, "IP address mismatch", "connection_url"),
        ({"begin": DAY / 2}, "not yet valid", "connection_ca_file"),
    ],
)
def test_unfit_certificate_of_a_trusted_issuer(tls_door, tmp_path, how, reason, remedy):
    file, fingerprint = certificate(tmp_path, **how)
    tls_door.show(file, fingerprint)
    with pytest.raises(errors.CertificateRefused, match=reason) as caught:
        ping(HttpTransport(tls_door.url, Verify(ca_file=str(file))))
    assert caught.value.fingerprint.replace(":", "").lower() == fingerprint
    assert remedy in str(caught.value)
    # The fingerprint decides alone, and says so.
    pinned = Verify(ca_file=str(file), fingerprints=(fingerprint,))
    assert ping(HttpTransport(tls_door.url, pinned))


@pytest.mark.parametrize("content", [None, "nothing"])
def test_useless_ca_file_is_named(tls_door, tmp_path, content):
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    with pytest.raises(errors.CertificateRefused, match=str(file)):
        ping(HttpTransport(tls_door.url, Verify(ca_file=str(file))))


def test_insecure_takes_any_certificate(tls_door):
    assert ping(HttpTransport(tls_door.url, Verify(insecure=True)))


def test_tls_to_a_plain_port_is_refused_in_words(door):
    url = door.url.replace("http:", "https:")
    with pytest.raises(errors.HostUnreachable, match="not begin TLS"):
        ping(HttpTransport(url, timeouts=Timeouts(connect=0.3)))


def test_tls_to_what_answers_otherwise_is_refused_in_words():
    refused = pytest.raises(errors.CertificateRefused, match="does not speak TLS")
    with speaking(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address, refused:
        ping(HttpTransport(f"https://{address}"))


def test_tls_that_ends_as_it_begins_is_no_refusal():
    # A stunnel that starts or stops; the session tries again.
    with speaking() as address, pytest.raises(errors.HostUnreachable):
        ping(HttpTransport(f"https://{address}"))
