# SPDX-License-Identifier: Apache-2.0
"""An embedded host, a session that is logged in to it, and who looks at it."""

import pytest

from tests import embedded
from tests.sim.clients import XmlClient
from tests.unit.xapi import embedded as networked


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


@pytest.fixture(params=["http", "https"])
def place(request, tmp_path):
    """A host, and a session that reaches it over the network."""
    secured = request.param == "https"
    with networked.host(tmp_path, tls=secured) as (sim, session):
        yield sim, session
