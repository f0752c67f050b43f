# SPDX-License-Identifier: Apache-2.0
"""The certificate by which clients know a host."""

import socket
import ssl

import pytest

from tests.sim.clients import HttpSender, XmlClient
from xenapi_driver.sim import Simulator


def shown(server):
    """Return the certificate that a door shows, as PEM."""
    context = ssl.create_default_context(cafile=str(server.cert_file))
    host, port = server.address
    with (
        socket.create_connection((host, port), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname=host) as wrapped,
    ):
        return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(True))


@pytest.fixture
def begin(tmp_path):
    """What starts simulators in the same folder, one after the other."""
    running = []

    def start(**choices):
        for one in running:
            one.close()
        running[:] = [Simulator(tmp_path, **choices)]
        return running[0]

    yield start
    for one in running:
        one.close()


def test_all_doors_of_a_host_show_what_the_host_tells(begin):
    sim = begin(hosts=2, addresses=("127.0.0.1", "127.0.0.2"))
    doors = [sim.serve("127.0.0.1", tls=True), sim.serve("127.0.0.1", tls=True)]
    other = sim.serve("127.0.0.2", tls=True, machine=1)
    first, again, second = (shown(door) for door in (*doors, other))
    assert first == again != second
    context = ssl.create_default_context(cafile=str(doors[0].cert_file))
    sender = HttpSender(doors[0], "/", context)
    client = XmlClient(sender)
    master = client.call("pool.get_master", client.call("pool.get_all")[0])
    for host in client.call("host.get_all"):
        told = client.call("host.get_server_certificate", host)
        assert told == (first if host == master else second)
    records = client.call("Certificate.get_all_records").values()
    known = {row["fingerprint"] for row in records if row["type"] == "host"}
    assert known == {doors[0].fingerprint, other.fingerprint}
    sender.connection.close()


def test_a_certificate_is_kept_over_restarts_while_it_fits(begin):
    before = begin().serve(tls=True).fingerprint
    assert begin().serve(tls=True).fingerprint == before
    elsewhere = begin().serve("127.0.0.9", tls=True)
    assert elsewhere.fingerprint != before
    assert "BEGIN CERTIFICATE" in shown(elsewhere)


def test_a_certificate_that_was_half_written_is_made_anew(begin):
    door = begin().serve(tls=True)
    door.cert_file.write_bytes(door.cert_file.read_bytes()[:300])
    again = begin().serve(tls=True)
    assert again.fingerprint != door.fingerprint
    assert "BEGIN CERTIFICATE" in shown(again)


def test_a_host_without_https_has_a_certificate_too(begin):
    client = XmlClient(begin().handle)
    host = client.call("host.get_all")[0]
    told = client.call("host.get_server_certificate", host)
    assert "BEGIN CERTIFICATE" in told
    assert "KEY" not in told
    assert client.call("host.get_server_certificate", host) == told
