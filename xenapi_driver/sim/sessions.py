# SPDX-License-Identifier: Apache-2.0
"""Whether a session may be used, and when it was used last."""

import time

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.world import World, stamp

# Seconds for which a host does not write down that a session was used again.
_REFRESH = 600.0


def use(world: World, ref: str) -> Row:
    """Return the row of a session that is used now.

    :raises Failure: SESSION_INVALID, it is unknown or was not used for too long
    """
    if not world.db.exists("session", ref):
        raise Failure("SESSION_INVALID", ref)
    row = world.db.row("session", ref)
    # Times of this form sort as texts.
    last, moment = str(row["last_active"]), time.time()
    timeout = world.behaviour.session_timeout
    if last < str(stamp(moment - timeout)):
        world.db.destroy("session", ref)
        raise Failure("SESSION_INVALID", ref)
    if last < str(stamp(moment - min(_REFRESH, timeout / 2))):
        row["last_active"] = stamp(moment)
    return row
