# SPDX-License-Identifier: Apache-2.0
"""The unix socket of a host: who can open it is root there."""

import http.client
import json
import socket
import stat
import xmlrpc.client

import pytest
import XenAPI

from tests.sim.clients import Refused, XmlClient
from xenapi_driver.sim import Simulator


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("local", timeout=10)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "xapi"


@pytest.fixture
def post(sim, path):
    """A function that POSTs to the socket and returns status and body."""
    sim.serve_unix(path)
    connection = Connection(path)

    def post(body, target="/"):
        connection.request("POST", target, body)
        answer = connection.getresponse()
        return answer.status, answer.read()

    yield post
    connection.close()


def test_no_password_is_asked_for(post, sim):
    body = xmlrpc.client.dumps(
        ("root", "whatever", "1.0", "x"), "session.login_with_password"
    )
    (answer,), _ = xmlrpc.client.loads(post(body)[1])
    assert answer["Status"] == "Success"
    row = sim.world.db.row("session", answer["Value"])
    assert row["is_local_superuser"]
    assert row["auth_user_name"] == "root"


def test_json_goes_the_same_way(post):
    login = {"method": "session.slave_local_login_with_password", "params": ["", ""]}
    answer = json.loads(post(json.dumps({**login, "id": 1}), "/jsonrpc")[1])
    assert answer["error"] is None
    call = {"method": "pool.get_all", "params": [answer["result"]], "id": 2}
    assert len(json.loads(post(json.dumps(call), "/jsonrpc")[1])["result"]) == 1


def test_the_package_s_own_local_session(sim, path, monkeypatch):
    # What XenAPI.xapi_local() does: it knows one path, spelt with underscores.
    sim.serve_unix(path)
    monkeypatch.setattr(
        XenAPI.XenAPI.UDSHTTPConnection,
        "connect",
        lambda self: (
            setattr(self, "sock", socket.socket(socket.AF_UNIX))
            or self.sock.connect(str(path))
        ),
    )
    session = XenAPI.xapi_local()
    session.login_with_password("root", "", "1.0", "tests")
    assert session.xenapi.host.get_all()
    session.xenapi.session.logout()
    session("close")()


def test_large_heads_pass_here_and_large_bodies_do_not(sim, path, post):
    connection = Connection(path)
    connection.request("POST", "/", b"", {"X-Long": "x" * 5000})
    assert connection.getresponse().status == 500
    connection.close()
    assert post(b"x" * 400 * 1024)[0] == 500


def test_the_file_is_for_its_owner_and_goes_with_the_door(sim, path):
    server = sim.serve_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.shut()
    assert not path.exists()
    server.reopen()
    assert path.is_socket()
    sim.close()
    assert not path.exists()


def test_a_file_left_behind_is_replaced_and_a_live_one_is_not(sim, path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = sim.serve_unix(path)
    with pytest.raises(OSError, match="in use"):
        sim.serve_unix(path)
    connection = Connection(path)
    connection.request("POST", "/", b"")
    assert connection.getresponse().status == 500
    connection.close()
    server.close()


def test_a_supporter_passes_on_what_its_own_root_asks(tmp_path, path):
    simulator = Simulator(tmp_path / "state", hosts=2)
    connection = Connection(path)
    try:
        simulator.serve_unix(path, machine=1)

        def send(body):
            connection.request("POST", "/", body)
            return connection.getresponse().read()

        client = XmlClient(send)
        supporter = simulator.machines.all[1].host
        assert client.call("session.get_this_host", client.session) == supporter
        assert len(client.call("host.get_all")) == 2
        simulator.act("host", host=1, what="die")
        with pytest.raises(Refused) as caught:
            client.call("host.get_all")
        assert caught.value.code == "HOST_IS_SLAVE"
    finally:
        connection.close()
        simulator.close()
