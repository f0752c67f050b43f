# SPDX-License-Identifier: Apache-2.0
"""A simulated host, and clients that reach it in every way it can be reached."""

import ssl

import pytest

from tests.sim.clients import HttpSender, JsonClient, XmlClient
from xenapi_driver.sim import Behaviour, Simulator


@pytest.fixture
def sim(tmp_path):
    simulator = Simulator(tmp_path / "state", behaviour=Behaviour(shutdown_timeout=0.2))
    yield simulator
    simulator.close()


@pytest.fixture(params=["in-process", "http", "https", "json"])
def client(request, sim):
    """A logged-in client; tests with it run once for each door."""
    if request.param == "in-process":
        yield XmlClient(sim.handle)
        return
    server = sim.serve(tls=request.param == "https")
    context = None
    if request.param == "https":
        context = ssl.create_default_context(cafile=str(server.cert_file))
    path = "/jsonrpc" if request.param == "json" else "/"
    sender = HttpSender(server, path, context)
    yield (JsonClient if request.param == "json" else XmlClient)(sender)
    sender.connection.close()


@pytest.fixture
def local(sim):
    """A client in process, for tests where the door does not matter."""
    return XmlClient(sim.handle)


@pytest.fixture
def sr(sim, local):
    """The default SR."""
    return local.call("SR.get_by_uuid", sim.default_sr_uuid)


@pytest.fixture
def make(tmp_path):
    made = []

    def start(dead_after=0.1, **choices):
        behaviour = Behaviour(shutdown_timeout=0.2, dead_after=dead_after)
        made.append(Simulator(tmp_path / "state", behaviour=behaviour, **choices))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def pair(make):
    """A pool of two hosts."""
    return make(hosts=2)


@pytest.fixture
def neighbours(make):
    """Two pools of one host, and a client of each."""
    sim = make(pools=2)
    return sim, XmlClient(sim.handle), XmlClient(sim.door(1))
