# SPDX-License-Identifier: Apache-2.0
"""/console: a guest's screen, seen and typed at with a viewer of our own."""

import base64
import contextlib
import http.client
import io
import os
import socket
import ssl
import struct
import time

import pytest

from tests.sim.clients import received, vm_record
from tests.sim.vnc_viewer import Hungup, Viewer, tunnel
from xenapi_driver.sim import Simulator
from xenapi_driver.sim.doors import screen
from xenapi_driver.sim.doors.websocket import WebSocket

NOWHERE = "00000000-0000-0000-0000-000000000001"


@pytest.fixture
def vm(local):
    vm = local.call("VM.create", vm_record(name_label="web-1"))
    local.call("VM.start", vm, False, False)
    return vm


@pytest.fixture
def door(sim):
    return sim.serve()


@pytest.fixture
def target(local, vm):
    """What a client asks for, from the console's location."""
    (console,) = local.call("VM.get_consoles", vm)
    record = local.call("console.get_record", console)
    assert record["protocol"] == "rfb"
    host = local.call("host.get_address", local.call("VM.get_resident_on", vm))
    prefix = f"https://{host}"
    assert record["location"] == f"{prefix}/console?uuid={record['uuid']}"
    path = record["location"].removeprefix(prefix)
    return f"{path}&session_id={local.session}"


@pytest.fixture
def viewer(door, target):
    sock, status = tunnel(door, target)
    assert status == 200
    with contextlib.closing(sock):
        yield Viewer(sock)


def test_the_screen_shows_the_guest(viewer, local, vm):
    assert viewer.server_version == b"RFB 003.008\n"
    assert viewer.types == b"\x01"
    assert (viewer.name, viewer.width, viewer.height) == ("web-1", 640, 400)
    lines = viewer.read().split("\n")
    assert lines[:3] == ["web-1", "Running", f"uuid {local.call('VM.get_uuid', vm)}"]
    assert lines[3].startswith("1 VCPUs, 1024 MiB, domain ")
    assert lines[-1] == "web-1 login:"


def test_what_is_typed_is_seen(viewer):
    viewer.read()
    viewer.type("roott")
    viewer.press(0xFF08)
    viewer.press(0xFFE1)  # Shift alone writes nothing
    viewer.type("\nABC~!")
    text = viewer.read_until("ABC~!")
    assert text.endswith("web-1 login: root\nweb-1 login: ABC~!")
    viewer.paste("xyz\nde")
    assert viewer.read_until("login: de").count("login:") == 3


def test_backspace_leaves_the_prompt(viewer):
    for _ in range(3):
        viewer.press(0xFF08)
    viewer.type("a")
    assert viewer.read_until("login: a").endswith("web-1 login: a")


def test_much_text_scrolls(viewer):
    viewer.type("x" * (screen.COLUMNS + 5) + "\n" + "y\n" * screen.ROWS + "the end")
    text = viewer.read_until("the end")
    assert text.startswith("web-1\nRunning")
    assert len(text.split("\n")) == screen.ROWS


def test_all_viewers_share_a_screen(viewer, door, target):
    sock, _ = tunnel(door, target)
    with contextlib.closing(sock):
        other = Viewer(sock)
        viewer.type("hello")
        assert "hello" in other.read_until("hello")


def test_an_unchanged_screen_is_not_sent_again(viewer):
    viewer.read()
    viewer.ask(incremental=True)
    viewer.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        viewer.sock.recv(1)


def test_the_screen_follows_the_guest(viewer, local, vm):
    viewer.read()
    local.call("VM.pause", vm)
    assert viewer.read(incremental=True).split("\n")[1] == "Paused"
    local.call("VM.unpause", vm)
    local.call("VM.set_name_label", vm, "renamed")
    assert "renamed" in viewer.read_until("renamed\nRunning")


@pytest.mark.parametrize("end", ["hard_shutdown", "hard_reboot", "suspend"])
def test_a_console_ends_with_its_domain(viewer, local, vm, end):
    viewer.read()
    (before,) = local.call("VM.get_consoles", vm)
    local.call(f"VM.{end}", vm)
    assert viewer.is_over()
    after = local.call("VM.get_consoles", vm)
    assert before not in after
    assert len(after) == (1 if end == "hard_reboot" else 0)


def test_a_console_ends_with_the_host(viewer, sim):
    sim.close()
    assert viewer.is_over()


def pixels(bits, depth, big, true, maxima=(0, 0, 0), shifts=(0, 0, 0)):
    return struct.pack(">BBBBHHHBBB3x", bits, depth, big, true, *maxima, *shifts)


@pytest.mark.parametrize(
    "wanted",
    [
        pixels(32, 24, True, True, (255, 255, 255), (0, 8, 16)),
        pixels(16, 16, False, True, (31, 63, 31), (11, 5, 0)),
        pixels(16, 15, True, True, (31, 31, 31), (10, 5, 0)),
        pixels(8, 8, False, True, (7, 7, 3), (0, 3, 6)),
        pixels(8, 8, False, False),
    ],
)
def test_a_viewer_chooses_its_pixels(door, target, wanted):
    sock, _ = tunnel(door, target)
    with contextlib.closing(sock):
        viewer = Viewer(sock, pixel_format=wanted)
        viewer.ask()
        rows = viewer.picture()
        # The first dot of the "w", two pixels wide and high.
        ink, paper = rows[4][0], rows[-1][-1]
        if wanted[3]:
            maxima = struct.unpack(">HHH", wanted[4:10])
            for most, shift, light, dark in zip(
                maxima, wanted[10:13], screen.PALETTE[1], screen.PALETTE[0], strict=True
            ):
                assert (ink >> shift) & most == light * most // 255
                assert (paper >> shift) & most == dark * most // 255
        else:
            light, dark = viewer.colours[1], viewer.colours[0]
            assert (light, dark) == ((224 * 257,) * 3, (16 * 257, 24 * 257, 48 * 257))
            assert {ink, paper} <= {0, 1}
        assert "web-1 login:" in viewer.read()


@pytest.mark.parametrize("version", [b"RFB 003.003\n", b"RFB 003.007\n"])
def test_older_viewers_are_served(door, target, version):
    sock, _ = tunnel(door, target)
    with contextlib.closing(sock):
        assert "web-1 login:" in Viewer(sock, version).read()


def test_a_part_of_the_screen(viewer):
    viewer.ask(area=(12, 0, 24, 18))
    rows = viewer.picture()
    assert (len(rows), len(rows[0])) == (18, 24)
    viewer.ask(area=(630, 390, 100, 100))
    rows = viewer.picture()
    assert (len(rows), len(rows[0])) == (10, 10)


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n",
        b"RFB 003.008\n\x02",
        b"RFB 003.008\n\x01\x01\xff" + bytes(9),
    ],
)
def test_who_does_not_speak_it_is_hung_up_on(door, target, words):
    sock, _ = tunnel(door, target)
    with contextlib.closing(sock):
        sock.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(100):
                pass


def test_by_reference_and_by_vm(door, local, vm):
    (console,) = local.call("VM.get_consoles", vm)
    uuid = local.call("VM.get_uuid", vm)
    for which in (f"ref={console}", f"ref={vm}", f"uuid={uuid}"):
        target = f"/console?{which}&session_id={local.session}"
        sock, status = tunnel(door, target)
        with contextlib.closing(sock):
            assert status == 200
            assert Viewer(sock).name == "web-1"


def test_who_may_not_look(door, target, local, vm):
    uuid = local.call("VM.get_uuid", vm)
    with_session = f"session_id={local.session}"
    for path, wanted in (
        (target.replace(local.session, "OpaqueRef:NULL"), 401),
        (f"/console?uuid={uuid}", 401),
        (f"/console?{with_session}", 500),
        (f"/console?uuid={NOWHERE}&{with_session}", 500),
    ):
        sock, status = tunnel(door, path)
        sock.close()
        assert status == wanted
    local.call("VM.pause", vm)
    sock, status = tunnel(door, target)
    sock.close()
    assert status == 500


def test_basic_authentication_opens_it(door, target, local):
    path = target.replace(f"&session_id={local.session}", "")
    credentials = base64.b64encode(b"root:secret").decode()
    sock, status = tunnel(door, path, [f"Authorization: Basic {credentials}"])
    with contextlib.closing(sock):
        assert status == 200
        assert "web-1" in Viewer(sock).read()


def test_over_tls_one_can_type_and_look_at_once(sim, target):
    door = sim.serve(tls=True)
    context = ssl.create_default_context(cafile=str(door.cert_file))
    with (
        socket.create_connection(door.address, timeout=10) as sock,
        context.wrap_socket(sock, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(f"CONNECT {target} HTTP/1.0\r\n\r\n".encode())
        received(tls, b"\r\n\r\n")
        viewer = Viewer(tls)
        for number in range(20):
            viewer.ask()
            viewer.type(str(number % 10))
            viewer.picture()
        assert "01234567890123456789" in viewer.read_until("0123456789" * 2)


def test_one_viewer_where_the_pool_says_so(door, target, local, viewer):
    (pool,) = local.call("pool.get_all")
    local.call("pool.set_limit_console_sessions", pool, True)
    sock, status = tunnel(door, target)
    sock.close()
    assert status == 503
    viewer.sock.close()
    end = time.monotonic() + 5
    while status == 503:
        assert time.monotonic() < end
        sock, status = tunnel(door, target)
        sock.close()
    assert status == 200


def test_an_idle_viewer_is_left(door, target, local):
    (pool,) = local.call("pool.get_all")
    local.call("pool.set_vm_console_idle_timeout", pool, "1")
    sock, _ = tunnel(door, target)
    with contextlib.closing(sock):
        viewer = Viewer(sock)
        viewer.read()
        assert viewer.is_over()


def test_the_control_domain_has_a_text_console(door, local):
    (dom0,) = [
        ref
        for ref, row in local.call("VM.get_all_records").items()
        if row["is_control_domain"]
    ]
    (console,) = [
        ref
        for ref in local.call("VM.get_consoles", dom0)
        if local.call("console.get_protocol", ref) == "vt100"
    ]
    target = f"/console?ref={console}&session_id={local.session}"
    sock, status = tunnel(door, target)
    with contextlib.closing(sock):
        assert status == 200
        seen = received(sock, b"login: ")
        assert seen.startswith(b"Control domain on host")
        sock.sendall(b"ls\r")
        seen = received(sock, b"login: ")
        assert seen.startswith(b"ls\r\n")


def test_only_the_host_of_the_guest_shows_it(tmp_path):
    simulator = Simulator(tmp_path / "state", hosts=2)
    try:
        session = simulator.session()
        session.login_with_password("root", "secret", "1.0", "tests")
        vm = session.xenapi.VM.create(vm_record())
        there = simulator.machines.all[1].host
        session.xenapi.VM.start_on(vm, there, False, False)
        path = f"/console?ref={vm}&session_id={session.handle}"
        for machine, wanted in ((0, 500), (1, 200)):
            sock, status = tunnel(simulator.serve(machine=machine), path)
            sock.close()
            assert status == wanted
    finally:
        simulator.close()


# In a browser


class BrowserSocket:
    """A WebSocket as a browser has it: masked frames out, plain ones in."""

    def __init__(self, sock, text):
        self.sock, self.text, self.buffer = sock, text, b""

    def sendall(self, data):
        if self.text:
            data = base64.b64encode(data)
        self.frame(1 if self.text else 2, data)

    def frame(self, kind, data):
        mask = os.urandom(4)
        size = len(data)
        head = bytes([0x80 | kind, 0x80 | (size if size < 126 else 126)])
        head += b"" if size < 126 else size.to_bytes(2, "big")
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self.sock.sendall(head + mask + masked)

    def exactly(self, size):
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise Hungup
            data += more
        return data

    def next(self):
        kind, size = self.exactly(2)
        if size >= 126:
            size = int.from_bytes(self.exactly(2 if size == 126 else 8), "big")
        return kind & 15, self.exactly(size)

    def recv(self, size):
        while not self.buffer:
            kind, data = self.next()
            if kind == 8:
                return b""
            if kind in (1, 2):
                assert (kind == 1) == self.text
                self.buffer = base64.b64decode(data) if self.text else data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data


@pytest.mark.parametrize("protocol", ["binary", "base64", ""])
def test_a_browser_sees_it_in_a_websocket(door, target, protocol, local, vm):
    headers = [
        f"GET {target} HTTP/1.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    if protocol:
        headers.append(f"Sec-WebSocket-Protocol: {protocol}, chat")
    with socket.create_connection(door.address, timeout=10) as sock:
        sock.sendall("\r\n".join([*headers, "", ""]).encode())
        head = received(sock, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        # The answer to this key that RFC 6455, section 1.3, works out.
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        assert (f"Sec-WebSocket-Protocol: {protocol}\r\n".encode() in head) == bool(
            protocol
        )
        browser = BrowserSocket(sock, protocol == "base64")
        viewer = Viewer(browser)
        browser.frame(9, b"are you there")
        viewer.type("typed")
        assert "typed" in viewer.read_until("typed")
        local.call("VM.hard_shutdown", vm)
        assert viewer.is_over()


class Sent:
    """A connection on which a browser sent all that it will."""

    def __init__(self, data):
        self._data = io.BytesIO(data)

    def read(self, size):
        return self._data.read(size)


@pytest.mark.parametrize(
    "data",
    [
        b"\x81",
        b"\x81\xfe\x00",
        b"\x81\x84ab",
        b"\x81\x85\0\0\0\0abcde",
    ],
    ids=["half a head", "half a length", "half a mask", "no base64"],
)
def test_a_frame_that_makes_no_sense_ends_a_websocket(data):
    assert WebSocket(Sent(data), "base64").read(10) == b""


def test_a_plain_get_is_no_websocket(door, target):
    connection = http.client.HTTPConnection(*door.address, timeout=10)
    connection.request("GET", target)
    assert connection.getresponse().status == 500
    connection.close()
