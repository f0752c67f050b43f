# SPDX-License-Identifier: Apache-2.0
"""Message objects that tell what became of guests ("XAPI today", section 16)."""

from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.world import now

# A real host keeps no more than this many either.
_MOST = 10_000
_PRIORITY = {"VM_CRASHED": 3}
_USUAL = 5
_WORDS = {
    "VM_STARTED": "started",
    "VM_SHUTDOWN": "shut down",
    "VM_REBOOTED": "rebooted",
    "VM_SUSPENDED": "suspended",
    "VM_RESUMED": "resumed",
    "VM_PAUSED": "paused",
    "VM_UNPAUSED": "unpaused",
    "VM_CRASHED": "crashed",
    "VM_CLONED": "cloned",
    "VM_SNAPSHOTTED": "snapshotted",
    "VM_CHECKPOINTED": "checkpointed",
    "VM_SNAPSHOT_REVERTED": "reverted",
}


def tell(db: Registry, vm: str, name: str) -> None:
    """Leave a message about a VM."""
    row = db.row("VM", vm)
    body = f"VM '{row['name_label']}' {_WORDS[name]}"
    if db.exists("host", row["resident_on"]):
        host = db.row("host", row["resident_on"])
        body += f" on host: {host['name_label']} (uuid: {host['uuid']})"
    db.create(
        "message",
        {
            "name": name,
            "priority": _PRIORITY.get(name, _USUAL),
            "cls": "VM",
            "obj_uuid": row["uuid"],
            "timestamp": now(),
            "body": body,
        },
    )
    if db.count("message") > _MOST:
        db.destroy("message", db.refs("message")[0])
