# SPDX-License-Identifier: Apache-2.0
"""Message objects that tell what became of guests ("XAPI today", section 16)."""

from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.world import now

# A real host keeps no more than this many either.
_MOST = 10_000
_PRIORITY = {"VM_CRASHED": 3}
_USUAL = 5


def tell(db: Registry, vm: str, name: str, what: str) -> None:
    """Leave a message about a VM.

    :param what: what it did, such as ``paused``
    """
    row = db.row("VM", vm)
    db.create(
        "message",
        {
            "name": name,
            "priority": _PRIORITY.get(name, _USUAL),
            "cls": "VM",
            "obj_uuid": row["uuid"],
            "timestamp": now(),
            "body": f"VM '{row['name_label']}' (uuid: {row['uuid']}) {what}",
        },
    )
    if db.count("message") > _MOST:
        db.destroy("message", db.refs("message")[0])


def on_host(db: Registry, vm: str) -> str:
    """Return the words for the host that a guest runs on."""
    host = db.row("host", db.row("VM", vm)["resident_on"])
    return f"on host: {host['name_label']} (uuid: {host['uuid']})"
