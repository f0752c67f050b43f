# SPDX-License-Identifier: Apache-2.0
"""An embedded host in this process."""

import pytest

from xenapi_driver.sim import Simulator


@pytest.fixture
def sim(tmp_path):
    simulator = Simulator(tmp_path / "host")
    yield simulator
    simulator.close()
