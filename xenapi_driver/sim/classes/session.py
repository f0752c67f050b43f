# SPDX-License-Identifier: Apache-2.0
"""Class session: logging in and out, and what ends a session otherwise."""

import time

from xenapi_driver.sim.failure import Failure, internal_error
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.world import now

# Sessions before the longest unused ones are dropped ("XAPI today", section 2).
MAX_OF_ORIGINATOR = 500
MAX_WITHOUT_ORIGINATOR = 400


def _make_room(db: Registry, originator: str) -> None:
    """Drop the longest unused sessions of an originator that has too many.

    One with an unfinished task stays.
    """
    limit = MAX_OF_ORIGINATOR if originator else MAX_WITHOUT_ORIGINATOR
    theirs = [
        (str(row["last_active"]), ref)
        for ref, row in db.rows("session")
        if row["originator"] == originator and not row["pool"]
    ]
    # Rows keep their order of creation, so the older of two equal ones goes first.
    surplus = len(theirs) + 1 - limit
    for _, ref in sorted(theirs, key=lambda one: one[0]):
        if surplus <= 0:
            return
        if not _is_busy(db, ref):
            db.destroy("session", ref)
            surplus -= 1


def _is_busy(db: Registry, ref: str) -> bool:
    tasks = db.row("session", ref)["tasks"]
    return any(db.row("task", task)["status"] == "pending" for task in tasks)


def _refuse(call: Call, username: str) -> Failure:
    """Wait as a host does before it refuses a password, and return the refusal."""
    if call.world.behaviour.login_delay:
        time.sleep(call.world.behaviour.login_delay)
    reason = "Authentication failure"
    if username != call.world.username:
        reason = "User not known to the underlying authentication module"
    return Failure("SESSION_AUTHENTICATION_FAILED", username, reason)


@message("session.login_with_password", blocking=True)
def login_with_password(
    call: Call, username: str, password: str, version: str, originator: str
) -> str:
    """Open a session. The version is ignored, as on a real host."""
    world = call.world
    known = (username, password) == (world.username, world.password)
    if not known and not call.place.trusted:
        raise _refuse(call, username)
    with call.db.changed:
        _make_room(call.db, originator)
        return call.db.create(
            "session",
            {
                "this_host": call.place.host or call.world.coordinator,
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


@message("session.slave_login", missing="")
def slave_login(call: Call, host: str, secret: str) -> str:
    """Refuse: nobody outside knows the secret that a pool's hosts share."""
    raise Failure("SESSION_AUTHENTICATION_FAILED", host, "Pool credentials invalid")


@message("session.slave_local_login")
def slave_local_login(call: Call, secret: str) -> str:
    """Refuse, for the same reason."""
    raise Failure(
        "SESSION_AUTHENTICATION_FAILED", "localhost", "Pool credentials invalid"
    )


@message("session.create_from_db_file")
def create_from_db_file(call: Call, filename: str) -> str:
    """Refuse: there is no such file in dom0."""
    text = f'Sys_error("{filename}: No such file or directory")'
    raise internal_error(text)


@message("session.logout", "session.local_logout")
def logout(call: Call) -> None:
    """Close the session; blocked event calls of it end with SESSION_INVALID."""
    call.world.queues.pop(call.session, None)
    call.db.destroy("session", call.session)


def _subjects(db: Registry) -> list[tuple[str, str]]:
    """Return the sessions of directory users, each with the user's identifier."""
    return [
        (ref, row["auth_user_sid"])
        for ref, row in db.rows("session")
        if row["auth_user_sid"] and not row["is_local_superuser"]
    ]


@message("session.get_all_subject_identifiers")
def get_all_subject_identifiers(call: Call) -> list[str]:
    """Return the directory users that are logged in."""
    return sorted({identifier for _, identifier in _subjects(call.db)})


@message("session.logout_subject_identifier")
def logout_subject_identifier(call: Call, identifier: str) -> None:
    """Close the sessions of a directory user but for the caller's own."""
    for ref, who in _subjects(call.db):
        if who == identifier and ref != call.session:
            call.db.destroy("session", ref)


@message("session.change_password")
def change_password(call: Call, old: str, new: str) -> None:
    """Set the password; a superuser's old one is not asked for."""
    if not call.db.row("session", call.session)["is_local_superuser"]:
        text = "Only a local superuser may change the password"
        raise Failure("USER_IS_NOT_LOCAL_SUPERUSER", text)
    if not new:
        raise Failure("CHANGE_PASSWORD_REJECTED", "No password supplied")
    call.world.password = new
