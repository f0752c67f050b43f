# SPDX-License-Identifier: Apache-2.0
"""Two hundred threads on one session, while the pool has no rest."""

from __future__ import annotations

import collections
import resource
import threading
import time

import pytest

from tests import troubles
from xenapi_driver.xapi import errors
from xenapi_driver.xapi.vdi import VdiRecord

THREADS = 200
SECONDS = 6.0
MOST_MIB = 150.0  # a thread takes a third of one; the hosts' are counted, too


@pytest.fixture
def house(tmp_path):
    house = troubles.House(tmp_path)
    yield house
    house.close()


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_all_end_and_nothing_piles_up(house):
    session = house.session(retry_seconds=15.0)
    session.login()
    operator = house.operator()
    disks = [troubles.disk(operator) for _ in range(10)]
    over = threading.Event()
    ended = collections.Counter()
    began = memory()

    def work(number):
        ref = disks[number % len(disks)]
        while not over.is_set():
            try:
                session.call("VDI.set_name_label", ref, f"disk {number}")
                assert ref in session.records[VdiRecord]
                session.call("VDI.get_all_records")
                ended["well"] += 1
            except errors.XapiError as exc:
                ended[repr(exc)] += 1

    threads = [
        threading.Thread(target=work, args=(number,)) for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    most = 0
    ends = time.monotonic() + SECONDS
    for trouble in ("cut", "restart", "lead", "expire", "cut", "lead", "restart"):
        house.sim.faults.add("VDI.get_all_records", action=trouble, after=True)
        time.sleep(SECONDS / 8)
        most = max(most, house.connections())
    over.wait(max(ends - time.monotonic(), 0.0))
    over.set()
    for thread in threads:
        thread.join(30)
    assert [one for one in threads if one.is_alive()] == []
    house.quiet()
    assert set(ended) == {"well"}
    assert ended["well"] > THREADS
    # 64 for calls, one for events, one to ask who leads.
    assert most <= 66
    assert memory() - began < MOST_MIB
    assert troubles.disagreement(session, house) == []
    reference = session.reference()
    session.logout()
    assert reference not in house.sim.world.db.refs("session")
    house.forget_sessions()  # of logins whose answer was cut
    deadline = time.monotonic() + 5.0
    while (left := house.left_over()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
