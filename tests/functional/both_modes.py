# SPDX-License-Identifier: Apache-2.0
"""A program that lives through trouble in one of Nova's concurrency modes.

``both_modes.py native|eventlet URL``, where the URL is a door of an embedded host with
its test door open. Prints what went wrong, then ``done``.
"""

import sys

if sys.argv[1] == "eventlet":
    import eventlet

    eventlet.monkey_patch()

import json
import threading
import time
import urllib.request

from xenapi_driver.xapi import transport
from xenapi_driver.xapi.records import KINDS
from xenapi_driver.xapi.session import Session, Tuning
from xenapi_driver.xapi.sr import SrRecord
from xenapi_driver.xapi.vdi import VdiRecord

URL = sys.argv[2]
TROUBLES = (
    {"action": "cut"},
    {"action": "cut", "after": True},
    {"action": "expire"},
    {"action": "lose"},
    {"delay": 0.2},
)
METHODS = ("VDI.create", "Async.VDI.copy", "task.destroy", "VDI.destroy", "event.from")


def rule(fields):
    """Add a rule to the host."""
    body = json.dumps({"rules": fields}).encode()
    urllib.request.urlopen(f"{URL}/_sim", body).close()


def record(session, name):
    """Return a disk to be made."""
    srs = session.records[SrRecord].values()
    return {
        "name_label": name,
        "SR": next(one.ref for one in srs if one.type == "ext"),
        "virtual_size": 2 * 2**20,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
    }


def life(session, name):
    """Make a disk, copy it, destroy both."""
    made = record(session, name)
    ref = session.call("VDI.create", made)
    assert session.records[VdiRecord][ref].name_label == name
    copy = session.task("Async.VDI.copy", ref, made["SR"], timeout=20)
    assert copy != ref and copy in session.records[VdiRecord]
    for one in (ref, copy):
        session.call("VDI.destroy", one)
    assert session.records[VdiRecord].named(name) == ()


def differences(session):
    """Return in which classes our records are not the host's."""
    found = []
    for kind in KINDS:
        rows = session.call(f"{kind.XAPI_CLASS}.get_all_records")
        theirs = {ref: kind.from_xapi(ref, row) for ref, row in rows.items()}
        if dict(session.records[kind]) != theirs:
            found.append(kind.XAPI_CLASS)
    return found


def main():
    """Run it."""
    timeouts = transport.Timeouts(connect=5.0, read=10.0)
    session = Session(
        lambda: transport.HttpTransport(URL, timeouts=timeouts),
        "root", "secret", "test", Tuning(retry_seconds=10.0),
    )  # fmt: skip
    began = threading.active_count()
    with session:
        life(session, "in peace")
        for trouble in TROUBLES:
            for method in METHODS:
                rule({"method": method, **trouble})
                try:
                    life(session, f"{method} {trouble}")
                except Exception as exc:
                    print(f"{method} {trouble}: {exc!r}")
        rule({"method": "VDI.get_all", "action": "restart"})
        session.call("VDI.get_all")
        life(session, "after a restart")
        threads = [
            threading.Thread(target=life, args=(session, f"thread {number}"))
            for number in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        ends = time.monotonic() + 8.0
        while (found := differences(session)) and time.monotonic() < ends:
            time.sleep(0.1)
        print(*found, end="")
        assert all(not one.name_label.startswith("thread")
                   for one in session.records[VdiRecord].values())  # fmt: skip
    assert not session.events.running
    assert threading.active_count() == began
    print("done")


main()
