# SPDX-License-Identifier: Apache-2.0
"""Classes PCI, PUSB, USB_group, VUSB: devices for guests.

The simulated hosts have network cards, and nothing on USB.
"""

import json
import time
from pathlib import Path

from xenapi_driver.sim import boot_times
from xenapi_driver.sim.failure import Failure, handle_invalid
from xenapi_driver.sim.messages import Call, message

# What Xen is told at its next start, by device: whether it is hidden from dom0, and
# when that was said.
_HIDDEN = "boot/hidden-devices"


def _file(call: Call, ref: str) -> Path:
    host = call.db.row("PCI", ref)["host"]
    return call.world.dom0_of(host).root / _HIDDEN


def _told(call: Call, ref: str) -> dict[str, tuple[bool, float]]:
    path = _file(call, ref)
    if not path.exists():
        return {}
    content: dict[str, tuple[bool, float]] = json.loads(path.read_text("ascii"))
    return content


@message("PCI.get_dom0_access_status")
def get_dom0_access_status(call: Call, ref: str) -> str:
    """Return whether dom0 has the device, and whether a start will change it."""
    row = call.db.row("PCI", ref)
    hidden, when = _told(call, ref).get(row["pci_id"], (False, 0.0))
    # The start is known to the second only.
    started_since = when + 1 < boot_times.of(call.db, row["host"])
    if hidden:
        return "disabled" if started_since else "disable_on_reboot"
    return "enabled" if started_since else "enable_on_reboot"


@message("PCI.disable_dom0_access", "PCI.enable_dom0_access")
def change_dom0_access(call: Call, ref: str) -> str:
    """Hide a device from dom0 after the next start, or give it back."""
    hide = call.method == "PCI.disable_dom0_access"
    now = get_dom0_access_status(call, ref)
    told, name = _told(call, ref), call.db.row("PCI", ref)["pci_id"]
    if now == "disable_on_reboot" and not hide:
        del told[name]
    elif now == "enable_on_reboot" and hide:
        told[name] = (True, 0.0)
    elif now == ("enabled" if hide else "disabled"):
        told[name] = (hide, time.time())
    _file(call, ref).write_text(json.dumps(told), "ascii")
    return get_dom0_access_status(call, ref)


# USB


@message("PUSB.scan")
def scan(call: Call, host: str) -> None:
    """Look for devices on USB: there are none."""
    call.db.touch("host", host)


@message("USB_group.create")
def create_usb_group(
    call: Call, label: str, description: str, config: dict[str, str]
) -> str:
    """Make a group that devices could be put into."""
    return call.db.create(
        "USB_group",
        {
            "name_label": label,
            "name_description": description,
            "other_config": config,
        },
    )


@message("USB_group.destroy")
def destroy_usb_group(call: Call, ref: str) -> None:
    """Remove a group."""
    call.db.destroy("USB_group", ref)


@message("VUSB.create")
def create_vusb(call: Call, vm: str, group: str, config: dict[str, str]) -> str:
    """Refuse: no group has a device."""
    for cls, ref in (("VM", vm), ("USB_group", group)):
        if not call.db.exists(cls, ref):
            raise handle_invalid(cls, ref)
    raise Failure("USB_GROUP_CONTAINS_NO_PUSBS", group)
