# SPDX-License-Identifier: Apache-2.0
"""HTTP as a host speaks it: limits, versions, connections that are kept or not."""

import contextlib
import json
import shutil
import socket
import subprocess
import time

import pytest

from tests.sim.test_model import PUBLISHED, needs_published
from xenapi_driver.sim.doors import connection, exchange, server

LOGIN = (
    b"<methodCall><methodName>session.login_with_password</methodName><params>"
    b"<param><value>root</value></param><param><value>secret</value></param>"
    b"</params></methodCall>"
)


@pytest.fixture
def raw(sim):
    """A bare connection: send bytes, read one answer."""
    with connected(sim.serve()) as found:
        yield found


class Raw:
    """Bytes out, an answer in."""

    def __init__(self, sock):
        self.sock = sock
        self.rest = b""

    def send(self, *lines, body=b""):
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def answer(self):
        """Return status, headers and body of the next answer."""
        while b"\r\n\r\n" not in self.rest:
            data = self.sock.recv(65536)
            assert data, "hung up"
            self.rest += data
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        size = int(headers.get("content-length", 0))
        while len(self.rest) < size:
            data = self.sock.recv(65536)
            assert data, "hung up"
            self.rest += data
        body, self.rest = self.rest[:size], self.rest[size:]
        return int(first.split()[1]), headers, body

    def is_over(self):
        """Return whether the host has hung up."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


@contextlib.contextmanager
def connected(door):
    with socket.create_connection(door.address, timeout=10) as sock:
        yield Raw(sock)


def login(raw, *headers, path="/", version="HTTP/1.1"):
    raw.send(
        f"POST {path} {version}",
        "Host: x",
        f"Content-Length: {len(LOGIN)}",
        *headers,
        body=LOGIN,
    )
    return raw.answer()


def test_an_answer_names_its_length_and_allows_other_sites(raw):
    status, headers, body = login(raw)
    assert status == 200
    assert b"<name>Status</name><value>Success</value>" in body
    assert headers == {
        "connection": "keep-alive",
        "cache-control": "no-cache, no-store",
        "content-type": "text/xml",
        "content-length": str(len(body)),
        "access-control-allow-origin": "*",
        "access-control-allow-headers": "X-Requested-With",
    }


@pytest.mark.parametrize(
    ("version", "header", "kept"),
    [
        ("HTTP/1.1", "X: y", True),
        ("HTTP/1.1", "Connection: close", False),
        ("HTTP/1.0", "X: y", False),
        ("HTTP/1.0", "Connection: Keep-Alive", True),
    ],
)
def test_who_keeps_a_connection(raw, version, header, kept):
    headers = login(raw, header, version=version)[1]
    assert headers["connection"] == ("keep-alive" if kept else "close")
    if kept:
        assert login(raw)[0] == 200
    else:
        assert raw.is_over()


def test_requests_may_come_all_at_once(raw):
    head = f"POST / HTTP/1.1\r\nContent-Length: {len(LOGIN)}\r\n\r\n".encode()
    raw.sock.sendall((head + LOGIN) * 3)
    assert [raw.answer()[0] for _ in range(3)] == [200, 200, 200]


def test_a_request_may_come_byte_by_byte(raw):
    head = f"POST /RPC2 HTTP/1.1\r\nContent-Length: {len(LOGIN)}\r\n\r\n".encode()
    for byte in (head + LOGIN)[:60]:
        raw.sock.sendall(bytes([byte]))
    raw.sock.sendall((head + LOGIN)[60:])
    assert raw.answer()[0] == 200


def test_a_head_of_1024_bytes_passes_and_one_more_is_too_large(raw):
    lines = ["POST / HTTP/1.1", f"Content-Length: {len(LOGIN)}", "X-Fill: "]
    missing = 1024 - len("\r\n".join([*lines, "", ""]))
    lines[-1] += "x" * missing
    raw.send(*lines, body=LOGIN)
    assert raw.answer()[0] == 200
    lines[-1] += "x"
    raw.send(*lines, body=LOGIN)
    status, headers, body = raw.answer()
    assert (status, headers["connection"]) == (431, "close")
    assert b"HTTP 431" in body
    assert raw.is_over()


@pytest.mark.parametrize(
    "head",
    ["GET /", "GET", "GET / FTP/1.1", "GET / HTTP/1.1\r\nno colon", "\r\nGET / x"],
)
def test_what_is_no_http_is_a_bad_request(raw, head):
    raw.send(head)
    assert raw.answer()[0] == 400
    assert raw.is_over()


def test_half_a_head_is_a_bad_request(raw):
    raw.sock.sendall(b"POST / HTTP/1.1\r\nConte")
    raw.sock.shutdown(socket.SHUT_WR)
    assert raw.answer()[0] == 400


def test_who_dawdles_at_first_is_hung_up_on_and_later_not(sim, monkeypatch):
    limits = connection.Limits(1024, 0.2, 0.4, 9)
    monkeypatch.setattr(server, "TCP", limits)
    door = sim.serve()
    with connected(door) as raw:
        raw.sock.sendall(b"POST / ")
        assert raw.answer()[0] == 408
    with connected(door) as raw:
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() < begin + 5:
                raw.sock.sendall(b"X")
                time.sleep(0.05)
                raw.sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    raw.rest += raw.sock.recv(100)
                raw.sock.setblocking(True)
                if raw.rest:
                    break
        assert raw.rest.startswith(b"HTTP/1.1 408")
    with connected(door) as raw:
        assert login(raw)[0] == 200
        time.sleep(0.5)
        assert login(raw)[0] == 200


def test_connections_beyond_the_limit_wait(sim, monkeypatch):
    monkeypatch.setattr(server, "TCP", connection.Limits(1024, 10, 60, 2))
    door = sim.serve()
    with connected(door) as one, connected(door) as two, connected(door) as three:
        assert login(one)[0] == login(two)[0] == 200
        three.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            login(three)
        one.sock.close()
        three.sock.settimeout(10)
        assert three.answer()[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 403),
        ("GET", "/nope", 403),
        ("GET", "/jsonrpc", 403),
        ("PUT", "/jsonrpc", 403),
        ("CONNECT", "/nope", 403),
        ("POST", "/nope", 500),
        ("DELETE", "/", 501),
    ],
)
def test_paths_without_a_use(raw, method, path, status):
    raw.send(f"{method} {path} HTTP/1.1", "Content-Length: 1", body=b"x")
    found, headers, body = raw.answer()
    assert (found, headers["content-type"]) == (status, "text/html")
    assert f"HTTP {status}".encode() in body


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/system-status", "get_system_status"),
        ("PUT", "/blob", "put_blob"),
        ("POST", "/services/SM/data", "post_services_sm"),
        ("CONNECT", "/console", "connect_console"),
        ("GET", "/console", "connect_console_ws"),
        ("GET", "/vm_rrd", "vm_rrd"),
        ("GET", "/vm_rrds", "get_vm_rrds"),
    ],
)
def test_handlers_ask_who_it_is(raw, method, path, name):
    raw.send(f"{method} {path} HTTP/1.1", "Content-Length: 0")
    status, headers, _ = raw.answer()
    assert (status, headers["www-authenticate"]) == (401, f'Basic realm="{name}"')


@needs_published
def test_every_published_action_has_a_handler():
    for action in json.loads(PUBLISHED.read_text(encoding="utf-8"))["http"]:
        method, path = action["method"], action["path"]
        # No web page stands here, and transfers of disks have tests of their own.
        if (method, path) == ("GET", "/") or path.startswith(("/import", "/export")):
            continue
        found = exchange.find(method, path)
        assert found is not None, action
        if method != "OPTIONS" and path not in ("/", "/RPC2", "/json", "/jsonrpc"):
            assert found[1] == action["action"]


def test_handlers_that_are_not_there_say_so_to_users(raw, local):
    raw.send(f"GET /audit_log?session_id={local.session} HTTP/1.1")
    status, _, page = raw.answer()
    assert status == 500
    assert b"NOT_IMPLEMENTED" in page


@pytest.mark.parametrize("path", ["/", "/RPC2", "/xmlrpc", "/anything", "/?a=b"])
def test_calls_are_taken_at_every_path_without_a_use(raw, path):
    assert login(raw, path=path)[0] == 200


@pytest.mark.parametrize("path", ["/jsonrpc", "/json", "/jsonrpc?x=1"])
def test_json_is_taken_at_its_paths(raw, path):
    body = b'{"method": "system.listMethods", "params": [], "id": "a"}'
    raw.send(f"POST {path} HTTP/1.1", f"Content-Length: {len(body)}", body=body)
    status, headers, text = raw.answer()
    assert (status, headers["content-type"]) == (200, "application/json")
    assert "VM.start" in json.loads(text)["result"]


LIST = {"method": "system.listMethods", "id": 1}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", ""),
        ("{", ""),
        ("42", "Invalid request body"),
        ("[{}]", "Invalid request body"),
        ({**LIST, "method": 5, "params": []}, "method"),
        ({"method": "x", "params": []}, "id"),
        ({**LIST, "id": None, "params": []}, "id"),
        ({**LIST, "id": 1.5, "params": []}, "id"),
        ({**LIST, "id": True, "params": []}, "id"),
        ({**LIST, "jsonrpc": "1.1", "params": []}, "jsonrpc"),
        ({**LIST, "jsonrpc": "2.0", "params": "x"}, "params"),
        ({**LIST, "params": {}}, "params"),
        (LIST, "params"),
        ("[" * 100_000, ""),
    ],
)
def test_what_is_no_json_rpc_is_a_server_error(raw, body, field):
    text = (body if isinstance(body, str) else json.dumps(body)).encode()
    raw.send("POST /jsonrpc HTTP/1.1", f"Content-Length: {len(text)}", body=text)
    status, _, page = raw.answer()
    assert (status, field.encode() in page) == (500, True)


@pytest.mark.parametrize("params", [{"params": []}, {"params": None}, {}])
def test_version_2_may_leave_out_the_parameters(raw, params):
    text = json.dumps({**LIST, "jsonrpc": "2.0", **params}).encode()
    raw.send("POST /jsonrpc HTTP/1.1", f"Content-Length: {len(text)}", body=text)
    status, _, body = raw.answer()
    assert status == 200
    assert "pool.get_all" in json.loads(body)["result"]


def test_a_bottomless_xml_request_is_a_server_error(raw):
    depth = 10_000
    value = b"<value><array><data>" * depth + b"</data></array></value>" * depth
    text = b"<methodCall><methodName>x</methodName><params><param>" + value
    text += b"</param></params></methodCall>"
    raw.send("POST / HTTP/1.1", f"Content-Length: {len(text)}", body=text)
    assert raw.answer()[0] == 500


@pytest.mark.parametrize("header", ["X: y", "Transfer-Encoding: chunked"])
def test_a_call_needs_its_length(raw, header):
    raw.send("POST / HTTP/1.1", header, body=b"5\r\nabcde\r\n0\r\n\r\n")
    status, _, page = raw.answer()
    assert status == 500
    assert b"We require a Content-Length" in page


@pytest.mark.parametrize("length", ["-1", "5.", "\u00b2", "1" * 20])
def test_a_length_is_a_number(raw, length):
    head = f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"
    raw.sock.sendall(head.encode("latin-1"))
    assert raw.answer()[0] == 400


def test_a_browser_is_told_what_it_may_do(raw):
    raw.send("OPTIONS /jsonrpc HTTP/1.1", "Access-Control-Request-Headers: X-A")
    status, headers, _ = raw.answer()
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    assert headers["access-control-allow-headers"] == "X-A"


def test_a_refused_upload_can_read_why(raw):
    # More than the buffers of a socket hold is still on its way when the answer is.
    size = 8 * 1024 * 1024
    raw.send("POST / HTTP/1.1", f"Content-Length: {size}")
    with contextlib.suppress(OSError):
        raw.sock.sendall(bytes(size // 4))
    assert raw.answer()[0] == 500


@pytest.mark.skipif(not shutil.which("curl"), reason="missing: curl")
def test_curl_that_asks_before_it_sends(sim, tmp_path):
    # A host does not answer Expect; curl sends after a second.
    body = tmp_path / "body"
    fill = b"<!--" + b"x" * 2000 + b"-->"
    body.write_bytes(LOGIN.replace(b"<params>", fill + b"<params>"))
    found = subprocess.run(
        ["curl", "-sS", "--http1.1", "-H", "Expect: 100-continue"]
        + ["-H", "Content-Type: text/xml", "--data-binary", f"@{body}"]
        + [sim.serve().url],
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert b"OpaqueRef:" in found.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="missing: curl")
def test_a_stream_over_tls_ends_as_it_should(sim):
    door = sim.serve(tls=True)
    found = subprocess.run(
        ["curl", "-sS", "--cacert", str(door.cert_file), f"{door.url}/nope"],
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert b"HTTP 403 forbidden" in found.stdout


def test_a_door_that_was_shut_opens_where_it_was(sim):
    door = sim.serve()
    with connected(door) as raw:
        assert login(raw)[0] == 200
        door.shut()
        assert raw.is_over()
    with pytest.raises(OSError, match="refused"), connected(door):
        pass
    door.reopen()
    with connected(door) as raw:
        assert login(raw)[0] == 200
        door.cut()
        assert raw.is_over()
    with connected(door) as raw:
        assert login(raw)[0] == 200
