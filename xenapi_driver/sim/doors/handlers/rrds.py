# SPDX-License-Identifier: Apache-2.0
"""/rrd_updates, /host_rrd and /vm_rrd: what was measured, as XML or JSON.

A host tells of itself and of the guests that run on it ("XAPI today", section 17).
"""

import time

from xenapi_driver.sim.doors import rrd_text
from xenapi_driver.sim.doors.exchange import Exchange, handler
from xenapi_driver.sim.doors.refusals import Refusal
from xenapi_driver.sim.metrics import archives, measures
from xenapi_driver.sim.metrics.measures import Owner
from xenapi_driver.sim.world import World

_ALIVE = ("Running", "Paused")


@handler("GET", "/rrd_updates", "rrd_updates")
def rrd_updates(talk: Exchange) -> None:
    """Answer what was measured since ``start``, newest first."""
    talk.session()
    world, wanted = talk.world, talk.arguments
    start, interval = _seconds(wanted, "start"), _seconds(wanted, "interval", "0")
    kind = wanted.get("cf")
    if kind not in (None, *archives.KINDS):
        raise Refusal(500, "Rrd.Invalid_cf")
    with world.db.changed:
        owners = _owners(talk)
    columns = archives.columns(world, owners, kind)
    table = archives.table(time.time(), start, interval, columns)
    if _wants_json(talk):
        talk.answer("application/json", rrd_text.updates_json(world, table))
    else:
        talk.answer("text/xml", rrd_text.updates_xml(world, table))


@handler("GET", "/host_rrd", "host_rrd")
def host_rrd(talk: Exchange) -> None:
    """Answer all archives of the host."""
    talk.session()
    with talk.world.db.changed:
        owner = measures.host(talk.world, talk.machine.host)
    _dump(talk, owner)


@handler("GET", "/vm_rrd", "vm_rrd")
def vm_rrd(talk: Exchange) -> None:
    """Answer all archives of a guest, or name the host that has them."""
    talk.session()
    db = talk.world.db
    if "uuid" not in talk.arguments:
        raise Refusal(400)
    with db.changed:
        found = db.find("VM", uuid=talk.arguments["uuid"])
        if not found:
            uuid = talk.arguments["uuid"]
            raise Refusal(500, f'Db_exn.Read_missing_uuid("VM", "", "{uuid}")')
        # What a halted guest once did is not kept here.
        if db.row("VM", found[0])["power_state"] not in _ALIVE:
            raise Refusal(404)
        host = db.row("VM", found[0])["resident_on"]
        address = db.row("host", host)["address"]
        owner = measures.guest(talk.world, found[0])
    if host == talk.machine.host:
        _dump(talk, owner)
    else:
        talk.redirect(address)


def _seconds(arguments: dict[str, str], name: str, default: str = "") -> int:
    """Return an argument that is a number of seconds.

    :raises Refusal: 400, it is none
    """
    try:
        return int(float(arguments.get(name, default)))
    except (ValueError, OverflowError) as error:
        raise Refusal(400) from error


def _owners(talk: Exchange) -> list[Owner]:
    world, wanted = talk.world, talk.arguments
    host = talk.machine.host
    found = []
    if wanted.get("host") == "true":
        found.append(measures.host(world, host))
    which = wanted.get("vm_uuid", "all")
    if which != "none":
        found += _guests(world, host, None if which in ("all", "") else which)
    return found


def _guests(world: World, host: str, uuid: str | None) -> list[Owner]:
    db = world.db
    return [
        measures.guest(world, vm)
        for vm in db.row("host", host)["resident_VMs"]
        if db.row("VM", vm)["power_state"] in _ALIVE
        and uuid in (None, db.row("VM", vm)["uuid"])
    ]


def _wants_json(talk: Exchange) -> bool:
    """Return whether JSON is asked for, or is as welcome as anything."""
    if "json" in talk.arguments:
        return talk.arguments["json"] == "true"
    best, answer = 0.0, False
    for entry in talk.request.headers.get("accept", "").split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        is_json = kind in ("application/json", "application/*", "*/*")
        if not is_json and kind not in ("text/xml", "text/*"):
            continue
        weight = _weight(parameters)
        if weight > best:
            best, answer = weight, is_json
    return answer


def _weight(parameters: list[str]) -> float:
    """Return how welcome a kind is, 0 to 1."""
    for text in parameters:
        if text.startswith("q="):
            try:
                return float(text[2:])
            except ValueError:
                return 0.0
    return 1.0


def _dump(talk: Exchange, owner: Owner) -> None:
    now = time.time()
    if _wants_json(talk):
        body = rrd_text.dump_json(talk.world, owner, now)
        talk.answer("application/json", body)
    else:
        talk.answer("text/xml", rrd_text.dump_xml(talk.world, owner, now))
