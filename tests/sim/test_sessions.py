# SPDX-License-Identifier: Apache-2.0
"""Sessions: who gets one, and what ends it."""

import time

import pytest

from tests.sim.clients import NULL, Refused, XmlClient
from xenapi_driver.sim.classes import session as sessions
from xenapi_driver.sim.world import stamp


def refusal(client, method, *params):
    with pytest.raises(Refused) as found:
        client.raw(method, *params)
    return found.value.args[0]


def age(sim, ref, seconds):
    """Let a session be unused for so long."""
    sim.world.db.row("session", ref)["last_active"] = stamp(time.time() - seconds)


def login(client, originator):
    return client.raw(
        "session.login_with_password", "root", "secret", "1.0", originator
    )


@pytest.mark.parametrize(
    ("method", "params", "reason"),
    [
        ("login_with_password", ("root", "x"), "Authentication failure"),
        ("login_with_password", ("x", "secret"), "User not known to the underlying"),
        ("slave_local_login_with_password", ("root", ""), "Authentication failure"),
        ("slave_login", (NULL, "secret"), "Pool credentials invalid"),
        ("slave_local_login", ("secret",), "Pool credentials invalid"),
    ],
)
def test_wrong_credentials_open_no_session(client, sim, method, params, reason):
    before = len(sim.world.db.refs("session"))
    code, _, text = refusal(client, f"session.{method}", *params)
    assert code == "SESSION_AUTHENTICATION_FAILED"
    assert text.startswith(reason)
    assert len(sim.world.db.refs("session")) == before


def test_a_session_from_a_file_names_the_file(local):
    code, text = refusal(local, "session.create_from_db_file", local.session, "/x/db")
    assert (code, "/x/db" in text) == ("INTERNAL_ERROR", True)


def test_a_session_that_is_not_used_expires(local, sim):
    other = login(local, "other")
    age(sim, other, 24 * 3600 - 60)
    assert local.raw("session.get_originator", other, other) == "other"
    # That was a use, so its time begins again.
    assert str(sim.world.db.row("session", other)["last_active"]) > str(
        stamp(time.time() - 60)
    )
    age(sim, other, 24 * 3600 + 60)
    assert refusal(local, "VM.get_all", other) == ["SESSION_INVALID", other]
    assert local.call("session.get_originator", local.session) == "tests"
    assert not sim.world.db.exists("session", other)


def test_use_is_written_down_every_ten_minutes_only(local, sim):
    age(sim, local.session, 300)
    before = sim.world.db.row("session", local.session)["last_active"]
    local.call("VM.get_all")
    assert sim.world.db.row("session", local.session)["last_active"] == before


@pytest.mark.parametrize(
    ("originator", "limit"),
    [("", "MAX_WITHOUT_ORIGINATOR"), ("x", "MAX_OF_ORIGINATOR")],
)
def test_the_longest_unused_session_makes_room(
    local, sim, monkeypatch, originator, limit
):
    monkeypatch.setattr(sessions, limit, 3)
    first, second, third = (login(local, originator) for _ in range(3))
    age(sim, second, 90)
    fourth = login(local, originator)
    alive = {ref for ref in sim.world.db.refs("session")}
    assert alive == {local.session, first, third, fourth}


def test_a_session_with_a_pending_task_stays(local, sim, monkeypatch):
    monkeypatch.setattr(sessions, "MAX_OF_ORIGINATOR", 2)
    busy, idle = login(local, "x"), login(local, "x")
    task = local.raw("task.create", busy, "work", "")
    age(sim, busy, 90)
    login(local, "x")
    assert sim.world.db.exists("session", busy)
    assert not sim.world.db.exists("session", idle)
    local.raw("task.destroy", busy, task)


def test_directory_users_can_be_logged_out(local, sim):
    def enter(identifier):
        return sim.world.db.create(
            "session", {"auth_user_sid": identifier, "last_active": stamp(time.time())}
        )

    one, same, other = enter("S-1"), enter("S-1"), enter("S-2")
    everybody = local.call("session.get_all_subject_identifiers")
    assert everybody == ["S-1", "S-2"]
    local.call("session.logout_subject_identifier", "nobody")
    # Whoever asks for it keeps the session it asks in.
    local.raw("session.logout_subject_identifier", one, "S-1")
    left = sim.world.db.refs("session")
    assert (one in left, same in left, other in left) == (True, False, True)
    code, _ = refusal(local, "session.change_password", one, "", "new")
    assert code == "USER_IS_NOT_LOCAL_SUPERUSER"


def test_a_changed_password_counts_at_once(local, sim):
    local.call("session.change_password", "never asked for", "new")
    assert refusal(local, "session.login_with_password", "root", "secret")[1] == "root"
    assert local.raw("session.login_with_password", "root", "new")
    assert refusal(local, "session.change_password", local.session, "new", "")[0] == (
        "CHANGE_PASSWORD_REJECTED"
    )
    local.call("session.change_password", "new", "secret")
    assert XmlClient(sim.handle).call("VM.get_all")
