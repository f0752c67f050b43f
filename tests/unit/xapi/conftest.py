# SPDX-License-Identifier: Apache-2.0
"""An embedded host, a session that is logged in to it, and who looks at it."""

import pytest

from tests import embedded
from tests.sim.clients import XmlClient
from xenapi_driver.sim import Simulator


@pytest.fixture
def sim(tmp_path):
    simulator = Simulator(tmp_path / "host")
    yield simulator
    simulator.close()


@pytest.fixture
def wire(sim):
    """The way of the session to the host."""
    return embedded.Wire(embedded.inside(sim))


@pytest.fixture
def session(wire):
    with embedded.session(wire) as session:
        yield session


@pytest.fixture
def operator(sim):
    """Somebody else on the same host, with a session of his own."""
    return XmlClient(sim.handle)
