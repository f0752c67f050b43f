# SPDX-License-Identifier: Apache-2.0
"""When hosts were started, as their records say it."""

import re

from xenapi_driver.sim.registry import Registry

_KEY = "boot_time"
_TIME = re.compile(r"\d{1,18}(\.\d*)?")


def of(db: Registry, host: str) -> float:
    """Return when a host was started, seconds since the epoch; 0: nobody knows.

    The note is in ``other_config``, where anybody may write what is no time.
    """
    noted = db.row("host", host)["other_config"].get(_KEY, "")
    return float(noted) if _TIME.fullmatch(noted) else 0.0
