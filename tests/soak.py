# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.soak --minutes 10``: a session over a pool that has no rest.

A second client makes, starts, pauses and destroys VMs; every few seconds the toolstack
restarts, connections are cut, sessions end, events get lost, or another host becomes
the coordinator. Several threads read, change and run tasks through one session of ours
all the while. In the end its records are compared with the host's one by one, and what
is left over is counted: threads, connections, sessions, tasks.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import logging
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.sim.clients import Refused, XmlClient, vdi_record
from tests.troubles import MIB, House, disagreement, guest, local_sr
from xenapi_driver.xapi import errors
from xenapi_driver.xapi.session import Session
from xenapi_driver.xapi.vdi import VdiRecord
from xenapi_driver.xapi.vm import VmRecord

OTHERS = 4  # VMs that the second client keeps going
EVERY = (1.0, 4.0)  # seconds between two troubles
# A call that was under way when trouble struck may end so, and tells the truth.
TRUTHS = (errors.OutcomeUnknown, errors.TaskLost)


def _struck_inside(exc: errors.XapiError) -> bool:
    """Tell whether a rule struck the work of a task, which then failed by it."""
    return isinstance(exc, errors.SessionInvalid) or "cut the connection" in str(exc)


class Soak:
    """The pool, our session, and everybody who is busy there.

    :ivar counts: what happened how often
    :ivar wrong: what should not have happened
    """

    def __init__(self, house: House, session: Session) -> None:
        self.house = house
        self.session = session
        self.counts: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.longest = 0.0
        self._over = threading.Event()
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        """Note that something happened."""
        with self._lock:
            self.counts[what] += 1

    def run(self, seconds: float) -> None:
        """Let everybody work for so long."""
        busy: list[Callable[[], None]] = [
            self._others, self._troubles,
            *[self._reader] * 3, *[self._changer] * 3, *[self._tasker] * 2,
        ]  # fmt: skip
        threads = [
            threading.Thread(target=self._on_and_on, args=(one,)) for one in busy
        ]
        for thread in threads:
            thread.start()
        self._over.wait(seconds)
        self._over.set()
        for thread in threads:
            thread.join(60)
            if thread.is_alive():
                self.wrong.append("a thread did not end")

    def _on_and_on(self, work: Callable[[], None]) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                work()
            except TRUTHS as exc:
                self.count(f"ended as {type(exc).__name__}")
            except errors.XapiError as exc:
                if work == self._tasker and _struck_inside(exc):
                    self.count("tasks that failed by trouble inside the host")
                    continue
                self.wrong.append(repr(exc))
            except (ConnectionError, Refused):
                self.count("the second client was in trouble itself")
            if work not in (self._others, self._troubles):
                self.longest = max(self.longest, time.monotonic() - began)

    # The second client

    def _others(self) -> None:
        operator = self.house.operator()
        vms: list[str] = []
        with contextlib.closing(_LoggedIn(operator)):
            while not self._over.wait(random.uniform(0.0, 0.2)):
                if len(vms) < OTHERS:
                    vms.append(guest(operator, running=True))
                    self.count("VMs made by another")
                ref = random.choice(vms)  # noqa: S311
                state = operator.call("VM.get_power_state", ref)
                if state == "Running" and random.random() < 0.5:  # noqa: S311
                    operator.call("VM.pause", ref)
                elif state == "Paused":
                    operator.call("VM.unpause", ref)
                else:
                    if state != "Halted":
                        operator.call("VM.hard_shutdown", ref)
                    operator.call("VM.destroy", ref)
                    vms.remove(ref)
                    self.count("VMs destroyed by another")

    # Trouble

    def _troubles(self) -> None:
        if self._over.wait(random.uniform(*EVERY)):
            return
        act, faults = self.house.sim.act, self.house.sim.faults
        what = random.choice(  # noqa: S311
            ["restart", "lead", "cut", "cut after", "expire", "lose", "busy"]
        )
        self.count(f"trouble: {what}")
        if what == "restart":
            leader = self.house.sim.pools()[0][0].number
            act("host", host=leader + 1, what="restart")
        elif what == "lead":
            other = self.house.sim.pools()[0][1].number
            act("host", host=other + 1, what="lead")
        elif what == "busy":
            faults.add("event.from", ["SERVER_BUSY"])
        else:
            action, _, after = what.partition(" ")
            method = "VM.create" if action == "lose" else "*"
            faults.add(method, action=action, after=bool(after))

    # Our session

    def _reader(self) -> None:
        records = self.session.records
        for disk in records[VdiRecord].values():
            for vbd in disk.vbds:
                assert isinstance(vbd, str)
        if len(records[VmRecord]) < 2:  # the control domains
            self.wrong.append("VMs are missing")
        self.session.call("VM.get_all")
        self.count("reads")
        time.sleep(0.02)

    def _changer(self) -> None:
        name = f"of ours {random.random()}"  # noqa: S311
        records = self.session.records
        sr = local_sr(records)
        made = vdi_record(sr, virtual_size=str(2 * MIB), name_label=name)
        ref = self.session.call("VDI.create", made)
        if ref not in self.session.records[VdiRecord]:
            self.wrong.append("a disk of ours is not seen")
        self.session.call("VDI.set_name_label", ref, name + "!")
        if self.session.records[VdiRecord][ref].name_label != name + "!":
            self.wrong.append("a change of ours is not seen")
        self.session.call("VDI.destroy", ref)
        if ref in self.session.records[VdiRecord]:
            self.wrong.append("a destroyed disk of ours is seen")
        self.count("changes")

    def _tasker(self) -> None:
        sr = local_sr(self.session.records)
        name = f"original {random.random()}"  # noqa: S311
        made = vdi_record(sr, virtual_size=str(2 * MIB), name_label=name)
        ref = self.session.call("VDI.create", made)
        try:
            copy = self.session.task("Async.VDI.copy", ref, sr, timeout=30.0)
            if copy == ref or copy not in self.session.records[VdiRecord]:
                self.wrong.append("the copy is not right")
            self.session.call("VDI.destroy", copy)
        finally:
            self.session.call("VDI.destroy", ref)
        self.count("tasks")


class _LoggedIn:
    """An operator's session, which ends with it."""

    def __init__(self, operator: XmlClient) -> None:
        self._operator = operator

    def close(self) -> None:
        with contextlib.suppress(ConnectionError, Refused):
            self._operator.call("session.logout")


def _memory() -> float:
    """Return the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def soak(house: House, seconds: float) -> tuple[Soak, list[str]]:
    """Run a soak; return it and what is wrong at its end."""
    session = house.session(retry_seconds=20.0)
    session.login()
    running = Soak(house, session)
    running.run(seconds)
    house.quiet()
    wrong = running.wrong + disagreement(session, house, 10.0)
    # Tasks whose beginning was lost.
    reference = session.reference()
    session.logout()
    if reference in house.sim.world.db.refs("session"):
        wrong.append("our session was not closed")
    # The reference of a login whose answer was cut reached nobody.
    running.counts["sessions of lost logins"] = house.forget_sessions()
    with house.session() as following:
        following.clear_leftovers()
    ends = time.monotonic() + 5.0
    while (left := house.left_over()) and time.monotonic() < ends:
        time.sleep(0.05)
    running.counts["requests of ours"] = session.requests.total
    running.counts["polls of ours"] = session.requests.polls
    return running, wrong + left


def main() -> int:
    """Run it, print a table, return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder))
        try:
            before = _memory()
            running, wrong = soak(house, minutes * 60)
        finally:
            house.close()
    gc.collect()
    for what, count in sorted(running.counts.items()):
        print(f"{count:8d}  {what}")
    print(f"{running.longest:8.1f}  seconds, the longest round of ours")
    print(f"{_memory() - before:8.1f}  MiB more memory at the peak, the hosts' with it")
    print(f"{len(wrong):8d}  wrong or left over")
    for one in wrong[:20]:
        print(f"          {one}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
