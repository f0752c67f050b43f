# SPDX-License-Identifier: Apache-2.0
"""Single changes to a port's devices, by names that callers have always used.

A caller wires a port in one call (vif_wiring); these are for one that goes step by
step, as older ones do. Each is a row of :data:`COMMANDS`: what its arguments are and
what is done with them. Names of arguments are a contract, also where they are misspelt.
"""
import re

from xenapi_dom0 import arguments, commands, failures, links, port_names, switch_ports


def _ours(request, name):
    """Return the name of a device that only we and the agent make."""
    device = arguments.device_name(request, name)
    port_names.refuse_others(name, device)
    return device


def _of_port(request, name):
    """Return the name of one of our devices, or of a VIF of the host."""
    device = arguments.device_name(request, name)
    port_names.refuse_others(name, device, vif=True)
    return device


def _any(request, name):
    return arguments.device_name(request, name)


def _qbr(request, name):
    """Return the name of a port's Linux bridge."""
    device = _ours(request, name)
    if not device.startswith("qbr"):
        raise failures.Failure(
            failures.NOT_PERMITTED, name, "it is no Linux bridge of a port"
        )
    return device


def _key(request, name):
    key = arguments.text(request, name, 60)
    if re.match(r"[A-Za-z0-9_-]+\Z", key) is None:
        raise failures.Failure(
            failures.BAD_ARGUMENT, name, "is no name of an external id"
        )
    return key


def _value(request, name):
    return arguments.text(request, name, 255, empty=True)


def _one_of(*names):
    def read(request, name):
        return arguments.choice(request, name, names)

    return read


def _delay(request, name):
    return arguments.whole(request, name, 0, 30)


# --- Open vSwitch ---------------------------------------------------------------------


def _readding(bridge, port):
    return [["--if-exists", "del-port", port], ["add-port", bridge, port]]


def _add_patch_port(bridge_name, port_name, peer_port_name):
    peer = "options:peer=" + switch_ports.quoted(peer_port_name)
    return switch_ports.change(
        *_readding(bridge_name, port_name)
        + [["set", "Interface", port_name, "type=patch", peer]]
    )


def _add_port(bridge_name, port_name):
    return switch_ports.change(*_readding(bridge_name, port_name))


def _create_port(bridge, port, iface_id, mac, status):
    ids = switch_ports.port_ids(iface_id, mac, status)
    return switch_ports.change(
        *_readding(bridge, port) + [switch_ports.external_ids(port, ids)]
    )


def _del_port(bridge_name, port_name):
    return switch_ports.change(["--if-exists", "del-port", bridge_name, port_name])


def _del_br(bridge_name):
    """Remove an interim network's bridge, which holds nothing but ports of ours."""
    if not port_names.is_interim(bridge_name):
        raise failures.Failure(
            failures.NOT_PERMITTED, "bridge_name", "it is no interim network's bridge"
        )
    if bridge_name not in switch_ports.bridges():
        return ""
    if switch_ports.is_vlan(bridge_name) or not all(
        port_names.is_ours(name) and name[:3] in ("vif", "tap")
        for name in switch_ports.ports(bridge_name)
    ):
        raise failures.Failure(
            failures.NOT_PERMITTED, "bridge_name",
            "it holds other ports than those of an interim network",
        )
    return switch_ports.change(["--if-exists", "del-br", bridge_name])


def _set_external_id(interface, extneral_id, value):
    return switch_ports.change(
        switch_ports.external_ids(interface, {extneral_id: value})
    )


# --- devices --------------------------------------------------------------------------


def _get_device(device_name):
    output = commands.run(
        ["ip", "link", "show", "dev", device_name], accept=(0, 1), timeout=links.TIMEOUT
    )
    if output.code:
        raise failures.Failure(failures.NOT_FOUND, "the device " + device_name)
    return output.out


def _set_bridge(bridge_name, setting, value):
    links.set_bridge(bridge_name, setting, value)


# name: ({argument: reader}, what is done with them, as keywords)
COMMANDS = {
    "ovs_add_patch_port": (
        {"bridge_name": _any, "port_name": _ours, "peer_port_name": _ours},
        _add_patch_port,
    ),
    "ovs_add_port": ({"bridge_name": _any, "port_name": _of_port}, _add_port),
    "ovs_create_port": (
        {
            "bridge": _any, "port": _of_port, "iface_id": arguments.uuid,
            "mac": arguments.mac, "status": _one_of("active", "inactive"),
        },
        _create_port,
    ),
    "ovs_del_port": ({"bridge_name": _any, "port_name": _of_port}, _del_port),
    "ovs_del_br": ({"bridge_name": _any}, _del_br),
    "ovs_set_if_external_id": (
        {"interface": _of_port, "extneral_id": _key, "value": _value},
        _set_external_id,
    ),
    "ip_link_add_veth_pair": (
        {"dev1_name": _ours, "dev2_name": _ours},
        lambda dev1_name, dev2_name: links.add_pair(dev1_name, dev2_name),
    ),
    "ip_link_del_dev": (
        {"device_name": _ours}, lambda device_name: links.delete(device_name),
    ),
    "ip_link_get_dev": ({"device_name": _any}, _get_device),
    "ip_link_set_dev": (
        {"device_name": _of_port, "option": _one_of("up", "down")},
        lambda device_name, option: links.change(device_name, option),
    ),
    "ip_link_set_promisc": (
        {"device_name": _of_port, "option": _one_of("on", "off")},
        lambda device_name, option: links.change(device_name, "promisc", option),
    ),
    "brctl_add_br": (
        {"bridge_name": _qbr}, lambda bridge_name: links.add_bridge(bridge_name),
    ),
    "brctl_del_br": (
        {"bridge_name": _qbr}, lambda bridge_name: links.delete(bridge_name),
    ),
    "brctl_set_fd": (
        {"bridge_name": _qbr, "fd": _delay},
        # Of seconds, as brctl takes them, the kernel has hundredths.
        lambda bridge_name, fd: _set_bridge(bridge_name, "forward_delay", fd * 100),
    ),
    "brctl_set_stp": (
        {"bridge_name": _qbr, "option": _one_of("on", "off")},
        lambda bridge_name, option: _set_bridge(
            bridge_name, "stp_state", int(option == "on")
        ),
    ),
    "brctl_add_if": (
        {"bridge_name": _qbr, "interface_name": _of_port},
        lambda bridge_name, interface_name: links.change(
            interface_name, "master", bridge_name
        ),
    ),
    "brctl_del_if": (
        {"bridge_name": _qbr, "interface_name": _of_port},
        lambda bridge_name, interface_name: links.change(interface_name, "nomaster"),
    ),
}


def run(request):
    """Carry out ``{"cmd": name, "args": {...}}``; return what the program printed."""
    arguments.only(request, ("cmd", "args"))
    name = arguments.choice(request, "cmd", COMMANDS)
    given = request.get("args")
    if not isinstance(given, dict):
        raise failures.Failure(failures.BAD_ARGUMENT, "args", "is no object")
    # The one name with a dash is written with an underscore as well.
    given = {("iface_id" if key == "iface-id" else key): given[key] for key in given}
    readers, carry_out = COMMANDS[name]
    arguments.only(given, readers)
    values = {key: reader(given, key) for key, reader in readers.items()}
    return carry_out(**values) or ""
