# SPDX-License-Identifier: Apache-2.0
"""Class host: what its toolstack does when asked, and what it tells of itself."""

import threading
from urllib.parse import urlsplit

from xenapi_driver.sim.classes.pool import refuse_external_auth
from xenapi_driver.sim.failure import Failure, handle_invalid
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.pools import power, settlement

_LOG = "var/log/xensource.log"
_CAPABILITIES = (
    ("xenserver-config", "yes"),
    ("xenserver-logs", "yes"),
    ("xapi", "yes"),
    ("network-status", "yes"),
    ("disk-info", "maybe"),
)


def _note(call: Call, host: str, line: str) -> None:
    """Leave a line in the host's log, all that can be seen of some calls."""
    path = call.world.dom0_of(host).root / _LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{call.method}: {line}\n")


@message("host.get_log")
def get_log(call: Call, host: str) -> str:
    """Refuse, as a real host does; its logs are had with /system-status."""
    raise Failure("NOT_IMPLEMENTED", "get_log")


@message("host.dmesg_clear")
def dmesg_clear(call: Call, host: str) -> str:
    """Return Xen's messages and forget them; there are none."""
    return ""


@message("host.send_debug_keys")
def send_debug_keys(call: Call, host: str, keys: str) -> None:
    """Press keys on Xen's console; what they make it print goes to its log."""
    _note(call, host, f"debug keys {keys}")


@message("host.bugreport_upload")
def bugreport_upload(call: Call, host: str, url: str, options: dict[str, str]) -> None:
    """Send a report in the background; nobody learns whether it arrived."""
    _note(call, host, f"upload to {urlsplit(url).netloc or 'the default place'}")


@message("host.backup_rrds", "host.sync_data", "host.prepare_for_poweroff")
def sync_data(call: Call, host: str, *delay: float) -> None:
    """Bring statistics or the database to where they survive this host."""
    _note(call, host, "done")


@message("host.get_uncooperative_resident_VMs")
def get_uncooperative_resident_vms(call: Call, host: str) -> list[str]:
    """Return the guests that do not give memory back: nobody looks any more."""
    return []


@message("host.emergency_ha_disable")
def emergency_ha_disable(call: Call, soft: bool) -> None:
    """Refuse: it is never on."""
    raise Failure("HA_NOT_ENABLED")


@message("host.get_system_status_capabilities")
def get_system_status_capabilities(call: Call, host: str) -> str:
    """Return what a status report can hold, as XML."""
    lines = "".join(
        f'<capability key="{key}" pii="{pii}" min-size="-1" max-size="-1"'
        ' min-time="-1" max-time="-1" mime="application/data" checked="yes"/>'
        for key, pii in _CAPABILITIES
    )
    head = '<?xml version="1.0" ?><!DOCTYPE system-status-capabilities>'
    return f"{head}<system-status-capabilities>{lines}</system-status-capabilities>"


@message("host.get_diagnostic_timing_stats")
def get_diagnostic_timing_stats(call: Call, host: str, counts: bool) -> dict[str, str]:
    """Return how long what took; a host that measures nothing has no lines."""
    return {}


@message("host.get_thread_diagnostics")
def get_thread_diagnostics(call: Call, host: str) -> str:
    """Return the names of the threads that the toolstack runs."""
    return "\n".join(sorted(thread.name for thread in threading.enumerate()))


@message("host.get_sm_diagnostics")
def get_sm_diagnostics(call: Call, host: str) -> str:
    """Return which disks the host has attached."""
    lines = ["The following data paths are attached:"]
    for vm in call.db.row("host", host)["resident_VMs"]:
        for vbd in call.db.row("VM", vm)["VBDs"]:
            row = call.db.row("VBD", vbd)
            if row["currently_attached"] and not row["empty"]:
                lines.append(f"{row['device']}: {row['VDI']}")
    return "\n".join(lines)


@message("host.get_tracked_user_agents")
def get_tracked_user_agents(call: Call, host: str) -> dict[str, str]:
    """Return the clients that gave a name: nobody notes them here."""
    return {}


@message("host.sm_dp_destroy")
def sm_dp_destroy(call: Call, host: str, datapath: str, allow_leak: bool) -> None:
    """Let go of a data path that was left behind; one that is not there is gone."""
    _note(call, host, f"data path {datapath}")


@message("host.refresh_pack_info", "host.apply_guest_agent_config")
def refresh_pack_info(call: Call, host: str) -> None:
    """Write what dom0 says of itself into the record, or into the guests."""
    call.db.touch("host", host)


@message("host.allocate_resources_for_vm")
def allocate_resources_for_vm(call: Call, host: str, vm: str, live: bool) -> None:
    """Keep room for a guest that will come."""
    if not call.db.exists("VM", vm):
        raise handle_invalid("VM", vm)
    call.db.update("VM", vm, scheduled_to_be_resident_on=host)


@message("host.apply_edition")
def apply_edition(call: Call, host: str, edition: str, force: bool) -> None:
    """Take any edition: this product has one only, with every feature."""
    call.db.touch("host", host)


@message("host.enable_external_auth")
def enable_external_auth(
    call: Call, host: str, config: dict[str, str], service: str, kind: str
) -> None:
    """Refuse: no directory can be reached."""
    raise refuse_external_auth(config, kind)


@message("host.disable_external_auth", "host.external_auth_set_ldaps")
def disable_external_auth(call: Call, host: str, *arguments: object) -> None:
    """Use no directory, which is so already; nothing of one can be set."""
    if call.method.endswith("ldaps"):
        raise Failure("AUTH_IS_DISABLED")


@message("host.restart_agent")
def restart_agent(call: Call, host: str) -> None:
    """Start the toolstack again: connections end, a coordinator's sessions too."""
    machine = settlement.machines_of(call.world).of(call.world, host)
    if machine is not None:
        later = threading.Timer(0.1, power.restart_toolstack, (machine,))
        later.daemon = True
        later.start()


@message("host.shutdown_agent")
def shutdown_agent(call: Call) -> None:
    """End the coordinator's toolstack; something in dom0 starts it again at once."""
    restart_agent(call, call.world.coordinator)


# The management interface


@message("host.get_management_interface")
def get_management_interface(call: Call, host: str) -> str:
    """Return the PIF through which the host is managed."""
    for pif in call.db.row("host", host)["PIFs"]:
        if call.db.row("PIF", pif)["management"]:
            return str(pif)
    raise Failure("HOST_HAS_NO_MANAGEMENT_IP")


def _manage_through(call: Call, pif: str) -> None:
    """Let a PIF be the management interface of its host.

    :raises Failure: it has no address
    """
    row = call.db.row("PIF", pif)
    if row["ip_configuration_mode"] == "None":
        raise Failure("PIF_HAS_NO_NETWORK_CONFIGURATION", pif)
    if not row["IP"]:
        raise Failure("INTERFACE_HAS_NO_IP", row["device"])
    for other in call.db.row("host", row["host"])["PIFs"]:
        call.db.update("PIF", other, management=other == pif)
    call.db.update("PIF", pif, currently_attached=True)
    call.db.update("host", row["host"], address=row["IP"])


@message("host.management_reconfigure")
def management_reconfigure(call: Call, pif: str) -> None:
    """Manage the host through another interface."""
    _manage_through(call, pif)


@message("host.local_management_reconfigure")
def local_management_reconfigure(call: Call, interface: str) -> None:
    """Do the same by the name that the coordinator has for it."""
    host = call.world.coordinator
    found = [
        pif
        for pif in call.db.row("host", host)["PIFs"]
        if interface
        in (
            call.db.row("PIF", pif)["device"],
            call.db.row("network", call.db.row("PIF", pif)["network"])["bridge"],
        )
    ]
    if not found:
        raise Failure("INTERFACE_HAS_NO_IP", interface)
    _manage_through(call, found[0])


@message("host.management_disable")
def management_disable(call: Call) -> None:
    """Leave the coordinator without a management interface: nobody follows it."""
    if len(call.db.refs("host")) > 1:
        raise Failure("SLAVE_REQUIRES_MANAGEMENT_INTERFACE")
    for pif in call.db.row("host", call.world.coordinator)["PIFs"]:
        call.db.update("PIF", pif, management=False)


@message("pool.management_reconfigure")
def pool_management_reconfigure(call: Call, network: str) -> None:
    """Manage all hosts through one network: each must have an address on it."""
    db, found = call.db, []
    for host in db.refs("host"):
        pifs = db.find("PIF", host=host, network=network)
        if not pifs:
            raise Failure("PIF_NOT_PRESENT", host, network)
        found.append(pifs[0])
    for pif in found:
        if db.row("PIF", pif)["ip_configuration_mode"] == "None":
            raise Failure("PIF_HAS_NO_NETWORK_CONFIGURATION", pif)
    for pif in found:
        _manage_through(call, pif)


@message("host.reset_networking")
def reset_networking(call: Call, host: str) -> None:
    """Forget all interfaces of a host; PIF.scan finds the real ones again."""
    for pif in list(call.db.row("host", host)["PIFs"]):
        if call.db.exists("PIF", pif):
            settlement.forget_pif(call.db, pif)
