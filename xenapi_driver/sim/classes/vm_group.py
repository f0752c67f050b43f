# SPDX-License-Identifier: Apache-2.0
"""Class VM_group: VMs that should rather run on different hosts."""

from xenapi_driver.sim.messages import Call, message


@message("VM_group.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove the group; its members stay, and are in none."""
    for vm in list(call.db.row("VM_group", ref)["VMs"]):
        groups = [group for group in call.db.row("VM", vm)["groups"] if group != ref]
        call.db.update("VM", vm, groups=groups)
    call.db.destroy("VM_group", ref)
