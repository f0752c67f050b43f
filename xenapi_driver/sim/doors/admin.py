# SPDX-License-Identifier: Apache-2.0
"""The test door ``/_sim``: what a test may look at and bring about over HTTP.

It asks for no password, and it is there only where ``admin`` (``--admin``) opened it.
Answers are JSON; what makes no sense is refused with status 400 and a sentence.

To look::

    GET /_sim               names of the things below
    GET /_sim/requests      calls so far, by method; polls for events counted apart
    GET /_sim/inventory     what exists in the first pool
    GET /_sim/ports         Neutron ports whose VIFs are plugged
    GET /_sim/hosts         hosts of all pools, with address, and whether they run
    GET /_sim/rules         rules that are left; see "Rules", below

To act, one line of a shell is enough::

    curl 'http://127.0.0.1:8080/_sim/guest?uuid=UUID&what=halt'
    curl 'http://127.0.0.1:8080/_sim/host?host=2&what=die'
    curl 'http://127.0.0.1:8080/_sim/rules?method=VM.start&error=TOO_BUSY&times=2'

``guest``
    ``uuid`` (or name) of a running VM, ``what``: ``halt``, ``reboot``, ``crash``.
    What follows is what the VM's ``actions_after_...`` say.
``host``
    ``host``: number (from 1, through all pools), uuid, name or address; the first
    when left out. ``what``: ``die`` (no answer from here on), ``start``, ``restart``
    (its toolstack), ``lead`` (become its pool's coordinator).
``sr``
    ``uuid`` (or name) of an SR, ``size``: bytes that it has from now on, or ``full``:
    as many as are used.
``rules``
    fields of a rule; ``clear=true`` forgets all rules and lets go what hangs.

The same by POST, with the fields as a JSON object; or several at once, POSTed to
``/_sim``, each one object or a list of them::

    {"guest": {"uuid": "...", "what": "halt"}, "rules": [{"method": "VM.start"}]}

In process: ``simulator.act("host", host=2, what="die")``.
"""

import json
import urllib.parse
from collections.abc import Callable
from typing import Any, Protocol

from xenapi_driver.sim import faults, inventory
from xenapi_driver.sim.pools import power
from xenapi_driver.sim.pools.machines import Machine
from xenapi_driver.sim.storage import disks
from xenapi_driver.sim.vms import guests
from xenapi_driver.sim.world import World

PREFIX = "/_sim"

Body = dict[str, Any]


class Simulation(Protocol):
    """What is looked at and set."""

    @property
    def machines(self) -> Any:
        """All machines."""

    @property
    def world(self) -> Any:
        """The first pool."""

    @property
    def requests(self) -> Any:
        """The counters of calls."""

    @property
    def faults(self) -> Any:
        """The rules."""

    def inventory(self) -> Body:
        """Return what exists."""


def answer(simulator: Simulation, target: str, text: bytes | None) -> Any:
    """Answer one request.

    :param target: path and query
    :param text: what was posted, JSON; None: nothing was
    :raises ValueError, TypeError, LookupError: the request makes no sense
    """
    path, _, query = target.partition("?")
    name = path.removeprefix(PREFIX).strip("/")
    body: Any = _from_query(query) if query else None
    if text:
        body = {**(body or {}), **json.loads(text)}
    if body is None:
        return _look(simulator, name)
    tasks = {name: body} if name else body
    if not isinstance(tasks, dict) or not set(tasks) <= set(_ACTS):
        raise LookupError(f"one can act on {', '.join(_ACTS)}")
    found = {}
    for what, wanted in tasks.items():
        several = wanted if isinstance(wanted, list) else [wanted]
        found[what] = [act(simulator, what, one) for one in several][-1]
    return found


def act(simulator: Simulation, what: str, fields: Body) -> Any:
    """Bring one thing about and return what is so afterwards.

    :raises ValueError, TypeError, LookupError: it makes no sense
    """
    if what not in _ACTS:
        raise LookupError(f"one can act on {', '.join(_ACTS)}")
    return _ACTS[what](simulator, dict(fields))


def _from_query(query: str) -> Body:
    """Return the fields of a query; one that is given several times is a list."""
    fields = urllib.parse.parse_qs(query, keep_blank_values=True)
    return {name: got[0] if len(got) == 1 else got for name, got in fields.items()}


def _look(simulator: Simulation, name: str) -> Any:
    if not name:
        return {"look": sorted(_LOOKS), "act": sorted(_ACTS)}
    if name not in _LOOKS:
        raise LookupError(f"one can look at {', '.join(_LOOKS)}")
    return _LOOKS[name](simulator)


def _requests(simulator: Simulation) -> Body:
    return {
        "total": simulator.requests.total,
        "by_method": simulator.requests.by_method,
        "polls": simulator.requests.polls,
    }


def _hosts(simulator: Simulation) -> list[Body]:
    return [_about_host(machine) for machine in simulator.machines.all]


def _about_host(machine: Machine) -> Body:
    db = machine.world.db
    row = db.row("host", machine.host) if db.exists("host", machine.host) else {}
    return {
        "number": machine.number + 1,
        "uuid": row.get("uuid", ""),
        "name": row.get("name_label", ""),
        "address": machine.address,
        "coordinator": not machine.is_supporter,
        "running": machine.running,
    }


# acting


def _rules(simulator: Simulation, body: Body) -> Any:
    if body.pop("clear", False):
        simulator.faults.clear()
    if body:
        simulator.faults.add(**faults.fields_from(body))
    return simulator.faults.rules()


def _named(simulator: Simulation, cls: str, wanted: str) -> tuple[World, str]:
    """Return pool and reference of an object by uuid or name.

    :raises LookupError: none, or several of that name
    """
    for field in ("uuid", "name_label"):
        found = [
            (world, ref)
            for world in simulator.machines.worlds()
            for ref in world.db.find(cls, **{field: wanted})
        ]
        if len(found) == 1:
            return found[0]
    raise LookupError(f"not exactly one {cls} is called {wanted!r}")


def _guest(simulator: Simulation, body: Body) -> Body:
    world, vm = _named(simulator, "VM", body["uuid"])
    with world.db.changed:
        guests.by_itself(world, vm, body["what"])
        return {"power_state": world.db.row("VM", vm)["power_state"]}


def _host(simulator: Simulation, body: Body) -> Body:
    wanted = str(body.get("host", body.get("uuid", "1")))
    for machine in simulator.machines.all:
        about = _about_host(machine)
        if wanted in [str(about[key]) for key in ("number", "uuid", "name", "address")]:
            break
    else:
        raise LookupError(f"no host is called {wanted!r}")
    if body.get("what") not in power.EVENTS:
        raise ValueError(f"what is one of {', '.join(power.EVENTS)}")
    power.EVENTS[body["what"]](machine)
    return _about_host(machine)


def _sr(simulator: Simulation, body: Body) -> Body:
    world, sr = _named(simulator, "SR", body["uuid"])
    size = None if body["size"] == "full" else int(body["size"])
    with world.db.changed:
        store = world.stores[sr]
        store.size_bytes = store.used_bytes() if size is None else size
        disks.refresh(world, sr)
        row = world.db.row("SR", sr)
        return {name: row[name] for name in ("physical_size", "physical_utilisation")}


_LOOKS: dict[str, Callable[[Any], Any]] = {
    "requests": _requests,
    "inventory": lambda simulator: simulator.inventory(),
    "ports": lambda simulator: inventory.plugged_ports(simulator.world),
    "rules": lambda simulator: simulator.faults.rules(),
    "hosts": _hosts,
}
_ACTS: dict[str, Callable[[Any, Body], Any]] = {
    "rules": _rules,
    "guest": _guest,
    "host": _host,
    "sr": _sr,
}
