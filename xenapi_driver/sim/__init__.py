# SPDX-License-Identifier: Apache-2.0
"""An embedded XAPI host: strict, in one process, with real disk files."""

from xenapi_driver.sim.simulator import Simulator
from xenapi_driver.sim.start.start_of_day import Hardware
from xenapi_driver.sim.world import Behaviour

__all__ = ["Behaviour", "Hardware", "Simulator"]
