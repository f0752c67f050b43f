# SPDX-License-Identifier: Apache-2.0
"""A summary of what exists, to be compared before and after."""

from typing import Any

from xenapi_driver.sim.world import World


def inventory(world: World) -> dict[str, Any]:
    """Return names, uuids, numbers and files; equal summaries mean no leftovers.

    Tasks that the host made itself for transfers do not count: it removes them, too.
    Files are those of the SRs and what plugins left in dom0, logs left out.
    """
    db = world.db
    with db.changed:
        summary: dict[str, Any] = {
            "VM": sorted(row["name_label"] for _, row in db.rows("VM")),
            "VDI": sorted(row["uuid"] for _, row in db.rows("VDI")),
            "VBD": len(db.refs("VBD")),
            "VIF": len(db.refs("VIF")),
            "network": len(db.refs("network")),
            "task": len(set(db.refs("task")) - world.own_tasks),
        }
    root = world.dom0.root
    files = set(world.dom0.scratch_files())
    for store in world.stores.values():
        for path in store.path.resolve().rglob("*"):
            name = path.relative_to(root).as_posix()
            if path.is_file() and name not in world.dom0.at_start:
                files.add(name)
    summary["files"] = sorted(files)
    summary["processes"] = world.dom0.processes_alive()
    return summary


def plugged_ports(world: World) -> dict[str, str]:
    """Return the Neutron port ids of the VIFs that are plugged now."""
    db = world.db
    with db.changed:
        return {
            row["other_config"]["nicira-iface-id"]: "plugged"
            for _, row in db.rows("VIF")
            if row["currently_attached"] and "nicira-iface-id" in row["other_config"]
        }
