# SPDX-License-Identifier: Apache-2.0
"""An embedded host and a session of the XAPI layer on it."""

import pytest

from tests import embedded
from xenapi_driver.sim import Simulator


@pytest.fixture
def sim(tmp_path):
    simulator = Simulator(tmp_path / "host")
    yield simulator
    simulator.close()


@pytest.fixture
def session(sim):
    with embedded.session(embedded.inside(sim)) as session:
        yield session
