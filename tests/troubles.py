# SPDX-License-Identifier: Apache-2.0
"""Every kind of trouble, at each request of what the XAPI layer does.

A scene is one thing that a session does. It is run once in peace, which tells its
requests; then anew for each trouble at each of them. Whatever happens, the call ends
in time with its value or an error that is true, no work was begun twice on the host,
the session's records are the host's own, and nothing is left after logout.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests import embedded, fixtures
from tests.sim import pools
from tests.sim.clients import (
    Refused,
    XmlClient,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)
from xenapi_driver.sim import Simulator, dispatch
from xenapi_driver.xapi import errors, lost, plugins, transport
from xenapi_driver.xapi.records import KINDS
from xenapi_driver.xapi.session import Session, Tuning
from xenapi_driver.xapi.sr import SrRecord
from xenapi_driver.xapi.tables import Snapshot

MIB = 2**20
REFUSAL = ["TROUBLE_OF_A_TEST", "put here"]

LOGIN = "session.login_with_password"
FIRST = "127.0.0.4"  # our host

RETRY_SECONDS = 3.0
READ_SECONDS = 1.0
TASK_SECONDS = 7.0  # more than it takes to notice that events were lost
# A call may wait for its deadline, then for one last answer and for its cancelling.
LIMIT_SECONDS = TASK_SECONDS + RETRY_SECONDS + 3 * READ_SECONDS


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What befalls a request, and which errors may come of it.

    :ivar rule: fields of the host's rule
    :ivar truths: errors that tell truly what happened
    :ivar once_more: a call must end well where its work can be found
    :ivar only_requests: it makes no sense for the work of a task, or a login
    """

    name: str
    rule: dict[str, Any]
    truths: tuple[type[Exception], ...] = ()
    once_more: bool = True
    only_requests: bool = False


_UNKNOWN = (errors.OutcomeUnknown, errors.TaskLost)
TROUBLES = (
    Trouble("cut before", {"action": "cut"}, _UNKNOWN),
    Trouble("cut after", {"action": "cut", "after": True}, _UNKNOWN),
    Trouble("refused", {"error": REFUSAL}, (errors.XapiFailure,), False),
    Trouble("refused after", {"error": REFUSAL, "after": True},
            (errors.XapiFailure,), False),
    Trouble("expired", {"action": "expire"}, (), only_requests=True),
    Trouble("restart before", {"action": "restart"}, _UNKNOWN, False),
    Trouble("restart after", {"action": "restart", "after": True}, _UNKNOWN, False),
    Trouble("hanging", {"action": "hang"}, (*_UNKNOWN, errors.TaskTimeout), False),
    Trouble("slow", {"delay": 0.3}),
    Trouble("event lost", {"action": "lose"}),
    Trouble("new coordinator", {"action": "lead"}, _UNKNOWN, False),
    Trouble("new coordinator after", {"action": "lead", "after": True},
            _UNKNOWN, False),
    # A host that starts has found its guests halted.
    Trouble("dead and back", {"action": "die"},
            (*_UNKNOWN, errors.VmBadPowerState), False),
    Trouble("dead and back after", {"action": "die", "after": True},
            (*_UNKNOWN, errors.VmBadPowerState), False),
)  # fmt: skip


class House:
    """Two hosts of a pool on the network, and what was done there.

    :ivar sim: their inside
    :ivar works: methods and arguments of the works that the hosts began
    """

    def __init__(self, folder: Path) -> None:
        addresses = (FIRST, "127.0.0.5")
        self.sim = Simulator(
            folder, plugins_dir=fixtures.PLUGINS, hosts=2, addresses=addresses
        )
        first = self.sim.serve(host=addresses[0])
        self._port = int(first.url.rpartition(":")[2])
        self.server = first
        self._doors = [
            first, self.sim.serve(host=addresses[1], port=self._port, machine=1)
        ]  # fmt: skip
        self.works: list[str] = []
        self._watched = mock.patch.object(dispatch, "_check_object", self._noting())
        self._watched.start()
        self._closing = threading.Event()
        self._nurse = threading.Thread(target=self._revive, daemon=True)
        self._nurse.start()

    def _noting(self) -> Callable[..., None]:
        check = dispatch._check_object

        def note(db: Any, message: Any, arguments: Any, handler: Any) -> None:
            check(db, message, arguments, handler)
            self.works.append(message.wire_name)

        return note

    def _revive(self) -> None:
        """Switch a host on again half a second after its death."""
        while not self._closing.wait(0.05):
            if not self.sim.machines.all[0].running:
                self._closing.wait(0.5)
                self.sim.act("host", host=1, what="start")

    def close(self) -> None:
        """Stop the hosts."""
        self._closing.set()
        self._nurse.join()
        self._watched.stop()
        self.sim.close()

    def session(self, **tuning: Any) -> Session:
        """Return a session of the first host that is not logged in yet."""
        timeouts = transport.Timeouts(connect=2.0, read=READ_SECONDS)
        door = embedded.through(self.server, timeouts)
        tuning = {"retry_seconds": RETRY_SECONDS, **tuning}
        return embedded.session(door, tuning=Tuning(**tuning))

    def operator(self) -> XmlClient:
        """Return somebody who asks the coordinator, whoever that is now."""
        return XmlClient(self.sim.door(self.sim.pools()[0][0].number))

    def asked(self, question: Callable[[XmlClient], Any]) -> Any:
        """Return what an operator finds out, who tries again while there is trouble."""
        for _attempt in range(50):
            with contextlib.suppress(ConnectionError, Refused):
                operator = self.operator()
                found = question(operator)
                operator.call("session.logout")
                return found
            time.sleep(0.1)
        raise AssertionError("the host does not answer an operator")

    def tables(self) -> Snapshot:
        """Return what the host says itself that there is."""

        def look(operator: XmlClient) -> Snapshot:
            found = {}
            for kind in KINDS:
                rows = operator.call(f"{kind.XAPI_CLASS}.get_all_records")
                found[kind] = {ref: kind.from_xapi(ref, rows[ref]) for ref in rows}
            return Snapshot(KINDS).changed(found)

        return self.asked(look)

    def quiet(self) -> None:
        """End all trouble: the host lives, and what hung has gone on to its end."""
        self.sim.faults.clear()
        first = self.sim.machines.all[0]
        ends = time.monotonic() + 5.0
        while (_sim_works() or not first.running) and time.monotonic() < ends:
            time.sleep(0.01)

    def settle(self) -> None:
        """Let the first host lead again, in quiet."""
        self.quiet()
        if self.sim.machines.all[0].is_supporter:
            self.sim.act("host", host=1, what="lead")

    def connections(self) -> int:
        """Return how many connections clients have to the hosts."""
        return sum(len(_open(door)) for door in self._doors)

    def forget_sessions(self) -> int:
        """Drop the sessions that are left; return how many were not an operator's."""
        db = self.sim.world.db
        count = self.left_over().count(_SESSION)
        for ref in db.refs("session"):
            db.destroy("session", ref)
        return count

    def left_over(self) -> list[str]:
        """Return what is there still although our session has ended."""
        db = self.sim.world.db
        found = [
            _SESSION for _ref, row in db.rows("session") if row["originator"] == "test"
        ]
        found += [f"task {row['name_label']}" for _ref, row in db.rows("task")]
        found += [
            one.name for one in threading.enumerate() if one.name == "xapi-events"
        ]
        found += ["a connection"] * self.connections()
        return found


def _open(door: Any) -> set[Any]:
    listener = door._listener
    return set(listener._open) if listener is not None else set()


def _sim_works() -> list[str]:
    """Return the tasks that a host works on."""
    return [
        one.name for one in threading.enumerate() if one.name.startswith("sim-Async")
    ]


_SESSION = "a session"


def differences(ours: Snapshot, hosts: Snapshot) -> list[str]:
    """Return how two pictures of the same host differ, object by object."""
    found = []
    for kind in hosts.kinds:
        for ref in ours[kind].keys() | hosts[kind].keys():
            mine, its = ours[kind].get(ref), hosts[kind].get(ref)
            if mine != its:
                found.append(f"{kind.XAPI_CLASS} {ref}: {mine} is {its}")
    return found


def disagreement(session: Session, house: House, seconds: float = 8.0) -> list[str]:
    """Return how a session's records differ from the host's, once all is quiet."""
    ends = time.monotonic() + seconds
    while True:
        found = differences(session.records, house.tables())
        if not found or time.monotonic() > ends:
            return found
        time.sleep(0.05)


# What a session does


@dataclasses.dataclass(frozen=True)
class Scene:
    """One thing that a session does.

    :ivar prepare: what an operator does before; its value goes to the others
    :ivar act: what the session does
    :ivar check: whether its value is right, by what the operator sees
    :ivar work: the work that must not run twice; "" where it may
    :ivar findable: what became of it can be told from the host's records
    :ivar begins: it is the login itself
    :ivar ends: it is the logout
    :ivar truths: other errors that may be true
    """

    name: str
    prepare: Callable[[XmlClient], Any]
    act: Callable[[Session, Any], Any]
    check: Callable[[XmlClient, Any, Any], bool]
    work: str = ""
    findable: bool = True
    begins: bool = False
    ends: bool = False
    truths: tuple[type[Exception], ...] = ()

    @property
    def of_guest(self) -> bool:
        """Whether it is done to a guest that runs."""
        return self.work in ("VM.pause", "VM.start_on")


def _sr(operator: XmlClient) -> str:
    return str(pools.local_sr(operator, pools.hosts_of(operator)[0]))


def local_sr(records: Snapshot) -> str:
    """Return an SR in which disks can be made."""
    return next(
        ref for ref, one in sorted(records[SrRecord].items()) if one.type == "ext"
    )


def guest(operator: XmlClient, running: bool = False) -> str:
    """Return a new VM, on the coordinator if it is to run."""
    size = str(16 * MIB)
    memory = dict.fromkeys(
        ("memory_static_max", "memory_dynamic_max", "memory_dynamic_min",
         "memory_static_min"), size,
    )  # fmt: skip
    ref = operator.call("VM.create", vm_record(name_label="guest", **memory))
    if running:
        first = pools.hosts_of(operator)[0]
        operator.call("VM.start_on", ref, first, False, False)
    return str(ref)


def disk(operator: XmlClient) -> str:
    """Return a new disk, on the coordinator's SR."""
    record = vdi_record(_sr(operator), virtual_size=str(MIB), name_label="disk")
    return str(operator.call("VDI.create", record))


def _named(kind: str) -> Callable[[XmlClient, Any, Any], bool]:
    """Whether the value is the one new object, of the name that was prepared."""

    def check(operator: XmlClient, prepared: Any, value: Any) -> bool:
        name = prepared["name_label"]
        return [value] == operator.call(f"{kind}.get_by_name_label", name)

    return check


def _of_vm(field: str) -> Callable[[XmlClient, Any, Any], bool]:
    def check(operator: XmlClient, prepared: Any, value: Any) -> bool:
        return [value] == operator.call(f"VM.get_{field}", prepared["VM"])

    return check


def _is(method: str, wanted: Any) -> Callable[[XmlClient, Any, Any], bool]:
    return lambda operator, prepared, _value: operator.call(method, prepared) == wanted


def _copies(operator: XmlClient, prepared: Any, value: Any) -> bool:
    disk = prepared[0]
    name = operator.call("VDI.get_name_label", disk)
    found = operator.call("VDI.get_by_name_label", name)
    return len(found) == 2 and set(found) == {disk, value}


def _disk_and_sr(operator: XmlClient) -> tuple[str, str]:
    ref = disk(operator)
    operator.call("VDI.set_name_label", ref, f"disk {uuid.uuid4()}")
    return ref, _sr(operator)


def _always(_operator: XmlClient, _prepared: Any, _value: Any) -> bool:
    return True


def _connect(session: Session, _prepared: Any) -> str:
    session.login()
    return session.host.address


def _plugin_task(session: Session, _prepared: Any) -> str:
    return str(
        session.task(
            "Async.host.call_plugin",
            *(session.host_ref, plugins.VERSION_PLUGIN, "get_version"),
            {"request": "{}"},
            timeout=TASK_SECONDS,
        )
    )


SCENES = (
    Scene(
        "connect",
        lambda o: None,
        _connect,
        lambda o, _p, value: value == FIRST,
        begins=True,
        truths=(errors.HostUnreachable,),
    ),
    Scene("logout", lambda o: None, lambda s, _p: s.logout(), _always, ends=True),
    Scene("read", disk, lambda s, ref: s.call("VDI.get_name_label", ref),
          lambda _o, _p, value: value == "disk"),
    Scene("VM.create",
          lambda o: vm_record(name_label=f"vm {uuid.uuid4()}"),
          lambda s, record: s.call("VM.create", record),
          _named("VM"), "VM.create"),
    Scene("VDI.create",
          lambda o: vdi_record(_sr(o), virtual_size=str(MIB),
                               name_label=f"disk {uuid.uuid4()}"),
          lambda s, record: s.call("VDI.create", record),
          _named("VDI"), "VDI.create"),
    Scene("VBD.create", lambda o: vbd_record(guest(o), disk(o)),
          lambda s, record: s.call("VBD.create", record),
          _of_vm("VBDs"), "VBD.create"),
    Scene("VIF.create",
          lambda o: vif_record(guest(o), o.call("network.get_all")[0]),
          lambda s, record: s.call("VIF.create", record),
          _of_vm("VIFs"), "VIF.create"),
    Scene("VM.pause", lambda o: guest(o, running=True),
          lambda s, ref: s.call("VM.pause", ref),
          _is("VM.get_power_state", "Paused"), "VM.pause"),
    Scene("VDI.destroy", disk, lambda s, ref: s.call("VDI.destroy", ref),
          lambda o, ref, _value: ref not in o.call("VDI.get_all"), "VDI.destroy"),
    Scene("VDI.clone", _disk_and_sr,
          lambda s, disk: s.call("VDI.clone", disk[0], {}),
          _copies, "VDI.clone"),
    Scene("a followed field", disk,
          lambda s, ref: s.call("VDI.set_name_label", ref, "new"),
          _is("VDI.get_name_label", "new")),
    Scene("another field", disk,
          lambda s, ref: s.call("VDI.set_name_description", ref, "new"),
          _is("VDI.get_name_description", "new")),
    Scene("a task of a VM", guest,
          lambda s, ref: s.task(
            "Async.VM.start_on", ref, s.host_ref, False, False, timeout=TASK_SECONDS
        ),
          _is("VM.get_power_state", "Running"), "VM.start_on"),
    Scene("a task with a result",
          _disk_and_sr,
          lambda s, disk: s.task("Async.VDI.copy", *disk, timeout=TASK_SECONDS),
          _copies, "VDI.copy"),
    Scene("a plugin", lambda o: None,
          lambda s, _p: plugins.check_version(s),
          lambda _o, _p, found: found.version.count(".") >= 1,
          "host.call_plugin", findable=False),
    Scene("a plugin as a task", lambda o: None,
          _plugin_task,
          lambda _o, _p, value: "version" in value,
          "host.call_plugin", findable=False),
)  # fmt: skip


# One run


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a trouble strikes.

    :ivar method: as the host's rule names it
    :ivar skip: how many calls of it pass before
    :ivar in_task: it is the work of a task and no request
    """

    method: str
    skip: int = 0
    in_task: bool = False

    def __str__(self) -> str:
        return f"{self.method} ({self.skip + 1})"


@dataclasses.dataclass
class Report:
    """How one run went; ``wrong`` is empty when all was as it should be."""

    scene: Scene
    trouble: Trouble
    place: Place
    ended: str = ""
    seconds: float = 0.0
    wrong: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        where = f"{self.scene.name} / {self.trouble.name} at {self.place}"
        return f"{where}: {self.ended} after {self.seconds:.1f} s {self.wrong or ''}"


def places(house: House, scene: Scene) -> list[Place]:
    """Run a scene in peace and return where it can be struck."""
    found = [Place("event.from"), Place("event.from", 1)]
    session = _session(house, scene)
    try:
        prepared = scene.prepare(house.operator())
        if not scene.begins:
            session.records  # noqa: B018 (its first reading is done)
        with session.requests.recording() as made:
            value = scene.act(session, prepared)
        if not scene.check(house.operator(), prepared, value):
            raise AssertionError(f"{scene.name} goes wrong without any trouble")
    finally:
        session.logout()
    for number, method in enumerate(made):
        found.append(Place(method, made[:number].count(method)))
        if method.startswith(lost.ASYNC):
            found.append(Place(method.removeprefix(lost.ASYNC), in_task=True))
    return found


def _session(house: House, scene: Scene) -> Session:
    """Return a session that has seen a task, and so knows that labels are kept."""
    session = house.session()
    if scene.begins:
        return session
    session.login()
    session.task("Async.SR.scan", _sr(house.operator()))
    return session


def runs(house: House, scene: Scene) -> Iterator[tuple[Trouble, Place]]:
    """Return each trouble and where it strikes a scene."""
    for place in places(house, scene):
        for trouble in TROUBLES:
            login = place.method == LOGIN
            if not (trouble.only_requests and (place.in_task or login)):
                yield trouble, place


def names() -> list[str]:
    """Return the scenes' names."""
    return [scene.name for scene in SCENES]


def selection(
    every: list[tuple[Trouble, Place]], number: int
) -> list[tuple[Trouble, Place]]:
    """Return some of a scene's runs: half of the troubles, each at another place."""
    found = []
    for index, trouble in enumerate(TROUBLES):
        if index % 2 == number % 2:
            at = [one for one in every if one[0] is trouble]
            found.append(at[(index // 2 + number // 2) % len(at)])
    return found


def run(house: House, scene: Scene, trouble: Trouble, place: Place) -> Report:
    """Let one trouble strike one request of a scene."""
    report = Report(scene, trouble, place)
    session = _session(house, scene)
    try:
        prepared = scene.prepare(house.operator())
        if not scene.begins:
            session.records  # noqa: B018 (as above)
        del house.works[:]
        house.sim.faults.add(place.method, skip=place.skip, **trouble.rule)
        value = _act(session, prepared, report)
        house.quiet()
        begun = house.works.count(scene.work)
        if scene.work and begun > 1:
            report.wrong.append(f"{scene.work} was begun {begun} times")
        report.wrong += _judged(house, prepared, value, report)
        if not scene.ends and (report.ended == "value" or not scene.begins):
            report.wrong += disagreement(session, house)
    except errors.XapiError as exc:
        report.wrong.append(f"afterwards: {exc!r}")
    finally:
        house.settle()
        _end(session, house, report)
    return report


def _act(session: Session, prepared: Any, report: Report) -> Any:
    scene, trouble, value = report.scene, report.trouble, None
    began = time.monotonic()
    try:
        value = scene.act(session, prepared)
        report.ended = "value"
    except errors.XapiError as exc:
        report.ended = repr(exc)
        inside = (errors.XapiFailure,) if report.place.in_task else ()
        if not isinstance(exc, trouble.truths + scene.truths + inside):
            report.wrong.append("not an error that is true")
        elif trouble.once_more and scene.findable and not (inside or scene.begins):
            report.wrong.append("its outcome could have been found")
    report.seconds = time.monotonic() - began
    if report.seconds > LIMIT_SECONDS:
        report.wrong.append("too late")
    return value


def _judged(house: House, prepared: Any, value: Any, report: Report) -> list[str]:
    check, action = report.scene.check, report.trouble.rule.get("action")
    if report.ended != "value" or (action == "die" and report.scene.of_guest):
        return []  # a guest may have been halted since, by its host's death
    right = house.asked(lambda operator: check(operator, prepared, value))
    return [] if right else [f"{value!r} is not right"]


def _end(session: Session, house: House, report: Report) -> None:
    """Log out and look at what is left."""
    if report.ended != "value" or report.place.method == "task.destroy":
        # A task whose beginning was lost, or that stays, is for the next one to clear.
        session.logout()
        with house.session() as following:
            following.clear_leftovers()
    session.logout()
    ends = time.monotonic() + 3.0
    while (left := house.left_over()) and time.monotonic() < ends:
        time.sleep(0.01)
    if report.place.method == LOGIN and left.count(_SESSION) == 1:
        left.remove(_SESSION)  # whose reference never reached us
    if report.place.method == "session.logout" and report.trouble.name == "refused":
        left.remove(_SESSION)  # as the host wanted
    report.wrong += left
    house.forget_sessions()


def main() -> None:
    """Run all scenes, or those that are named; print what went wrong, and counts."""
    logging.disable()
    wanted = sys.argv[1:]
    counts: collections.Counter[str] = collections.Counter()
    seconds: collections.Counter[str] = collections.Counter()
    for scene in SCENES:
        if wanted and scene.name not in wanted:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            house = House(Path(folder))
            try:
                for trouble, place in runs(house, scene):
                    before = time.monotonic()
                    report = run(house, scene, trouble, place)
                    seconds[trouble.name] += time.monotonic() - before
                    counts["runs"] += 1
                    counts["wrong"] += bool(report.wrong)
                    counts[report.ended.partition("(")[0]] += 1
                    if report.wrong or "-v" in wanted:
                        print(report, flush=True)
            finally:
                house.close()
        print(f"{scene.name}: {time.monotonic() - began:.1f} s", flush=True)
    print(dict(counts), flush=True)
    print({name: round(spent, 1) for name, spent in seconds.items()})


if __name__ == "__main__":
    main()
