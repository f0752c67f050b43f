# SPDX-License-Identifier: Apache-2.0
"""``python -m xenapi_driver.sim``."""

import sys

from xenapi_driver.sim.command import main

sys.exit(main())
