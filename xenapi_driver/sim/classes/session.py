# SPDX-License-Identifier: Apache-2.0
"""Class session: logging in and out."""

import time

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.world import now


@message("session.login_with_password", blocking=True)
def login_with_password(
    call: Call, username: str, password: str, version: str, originator: str
) -> str:
    """Open a session. The version is ignored, as on a real host."""
    world = call.world
    if (username, password) != (world.username, world.password):
        if world.behaviour.login_delay:
            time.sleep(world.behaviour.login_delay)
        reason = "Authentication failure"
        if username != world.username:
            reason = "User not known to the underlying authentication module"
        raise Failure("SESSION_AUTHENTICATION_FAILED", username, reason)
    return call.db.create(
        "session",
        {
            "this_host": call.world.coordinator,
            "auth_user_name": username,
            "is_local_superuser": True,
            "originator": originator,
            "last_active": now(),
            "validation_time": now(),
        },
    )


@message("session.slave_local_login_with_password", blocking=True)
def slave_local_login_with_password(call: Call, username: str, password: str) -> str:
    """Open a session against this host's own password."""
    return login_with_password(call, username, password, "", "")


@message("session.logout", "session.local_logout")
def logout(call: Call) -> None:
    """Close the session; blocked event calls of it end with SESSION_INVALID."""
    call.db.destroy("session", call.session)


@message("session.get_all_subject_identifiers")
def get_all_subject_identifiers(call: Call) -> list[str]:
    """Return nobody: there is no directory."""
    return []


@message("session.change_password")
def change_password(call: Call, old: str, new: str) -> None:
    """Set the password; a superuser's old one is not asked for."""
    call.world.password = new
