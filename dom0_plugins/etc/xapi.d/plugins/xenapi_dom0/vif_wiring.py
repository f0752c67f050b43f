# SPDX-License-Identifier: Apache-2.0
"""Everything between a guest's interface and Neutron's integration bridge.

With the hybrid plug, where Neutron filters in a Linux bridge::

    guest's vif/tap - interim network's switch - vif~tap - qbr - qvb~qvo - integration

Without it one patch between the two switches, named vif and tap at its ends. Both have
one port of the integration bridge, and only that carries the Neutron port's id.

What is there and right is left as it is: a device that is made anew flips the port's
status. The order is such that the integration bridge's port comes last and goes first,
and each step looks at what there is: a call that was killed is completed by the next.
"""
import collections

from xenapi_dom0 import failures, links, locks, port_names, switch_ports

WAIT = 60  # seconds for another call about the same port

# ``devices``: the host's names of the guest's interface, which may not be there yet
Port = collections.namedtuple(
    "Port", "port_id mac vm_uuid bridge integration_bridge mtu hybrid devices"
)


class _Wiring:
    """One port's devices as they are, and what was changed about them."""

    def __init__(self, port_id):
        self.port_id = port_id
        self.names = port_names.of_port(port_id)
        self.changed = []
        self.look()

    def look(self):
        self.links = links.listed()
        self.interfaces = switch_ports.named(self.names)

    def link(self, name):
        return self.links.get(name)

    def note(self, name):
        if name not in self.changed:
            self.changed.append(name)

    def delete(self, name):
        """Remove a device that is there, with the other end where it has one."""
        link = self.links.pop(name, None)
        if link is None:
            return
        links.delete(name)
        if link.peer in self.names:
            self.links.pop(link.peer, None)
        self.note(name)

    def delete_ports(self, names):
        """Remove ports that are there from whatever switch they are in, at once."""
        there = [name for name in names if self.interfaces.pop(name, None) is not None]
        if there:
            switch_ports.change(*[["--if-exists", "del-port", name] for name in there])
        for name in there:
            self.note(name)


def wire(port):
    """Connect a port; return the names of what was made or put right."""
    with locks.held("port", port.port_id, WAIT):
        _refuse_missing(port)
        wiring = _Wiring(port.port_id)
        _refuse_other_port(wiring, port.hybrid)
        _free_id(wiring, port)
        if port.hybrid:
            _make_hybrid(wiring, port)
        else:
            _make_patch(wiring, port)
        _fit_devices(wiring, port)
        return wiring.changed


def unwire(port_id, bridge=None):
    """Remove what :func:`wire` made for a port; return the names of what was there.

    :param bridge: the interim network's switch, which goes too if it is left without
        any port: a port of ours kept the host from removing it
    """
    with locks.held("port", port_id, WAIT):
        wiring = _Wiring(port_id)
        for hybrid in (True, False):
            _refuse_other_port(wiring, hybrid)
        _remove(wiring)
        if bridge is not None:
            _remove_bridge(wiring, bridge)
        return wiring.changed


def _refuse_missing(port):
    """Raise a Failure where one of the two switches is not there."""
    found = switch_ports.bridges()
    for bridge in (port.bridge, port.integration_bridge):
        if bridge not in found:
            raise failures.Failure(
                failures.NOT_FOUND, "the Open vSwitch bridge " + bridge
            )


def _refuse_other_port(wiring, hybrid):
    """Raise a Failure where the devices are those of a port with a similar UUID."""
    name = wiring.names.qvo if hybrid else wiring.names.tap
    found = wiring.interfaces.get(name)
    owner = found.external_ids.get("iface-id") if found is not None else None
    if owner not in (None, wiring.port_id):
        raise failures.Failure(
            failures.NOT_PERMITTED, name, "it belongs to the port " + owner
        )


# --- hybrid ---------------------------------------------------------------------------


def _make_hybrid(wiring, port):
    names = wiring.names
    _refuse_kind(wiring, "")
    _need_bridge(wiring)
    _need_pair(wiring, names.qvb, names.qvo)
    _need_pair(wiring, names.tap, names.vif)
    links.without_ipv6(names)
    for name in names:
        _need_settings(wiring, port, name)
    # A frame may pass only when all of it is there, so Neutron is told last.
    _need_port(wiring, port.bridge, names.vif, {})
    _need_port(wiring, port.integration_bridge, names.qvo, _ids(port))


def _need_bridge(wiring):
    name = wiring.names.qbr
    found = wiring.link(name)
    if found is not None and found.kind != "bridge":
        wiring.delete(name)
        found = None
    if found is None:
        links.add_bridge(name)
        wiring.note(name)
        return
    # One after the other: the kernel refuses a delay of 0 to a spanning tree.
    if found.stp:
        links.set_bridge(name, "stp_state", 0)
        wiring.note(name)
    if found.forward_delay != 0:
        links.set_bridge(name, "forward_delay", 0)
        wiring.note(name)


def _need_pair(wiring, one, other):
    found = wiring.link(one)
    if found is not None and found.peer == other and wiring.link(other) is not None:
        return
    # A switch holds on to a device that is replaced by another one of its name.
    wiring.delete_ports((one, other))
    wiring.delete(one)
    wiring.delete(other)
    links.add_pair(one, other)
    wiring.note(one)
    wiring.note(other)


def _need_settings(wiring, port, name):
    """Bring a device up, with its MTU and in the Linux bridge where it belongs."""
    names = wiring.names
    # Of a device that was made in this call nothing is known: all of it is set.
    found = wiring.link(name) if name not in wiring.changed else None
    words = []
    if found is None or found.mtu != port.mtu:
        words += ["mtu", str(port.mtu)]
    if name in (names.qvb, names.tap) and (found is None or found.master != names.qbr):
        words += ["master", names.qbr]
    if name in (names.qvb, names.qvo) and (
        found is None or "PROMISC" not in found.flags
    ):
        words += ["promisc", "on"]
    if found is None or "UP" not in found.flags:
        words += ["up"]
    if words:
        links.change(name, *words)
        wiring.note(name)


# --- without the Linux bridge ---------------------------------------------------------


def _make_patch(wiring, port):
    names = wiring.names
    _refuse_kind(wiring, "patch")
    for name in names:
        wiring.delete(name)
    ends = (
        (port.bridge, names.vif, names.tap, {}),
        (port.integration_bridge, names.tap, names.vif, _ids(port)),
    )
    changes = []
    for bridge, name, peer, ids in ends:
        words = [
            "set", "Interface", name, "type=patch",
            "options:peer=" + switch_ports.quoted(peer),
        ]
        found = wiring.interfaces.get(name)
        if name not in switch_ports.ports(bridge):
            found = None
            changes += _adding(bridge, name) + [words]
        elif found.options.get("peer") != peer:
            changes += [words]
        changes += _setting(found, name, ids)
    _carry_out(wiring, changes, (names.vif, names.tap))


def _refuse_kind(wiring, kind):
    """Remove the wiring of the other kind, where there is one."""
    found = wiring.interfaces.get(wiring.names.vif)
    if found is not None and found.kind != kind:
        _remove(wiring)


# --- ports of the switches ------------------------------------------------------------


def _ids(port):
    ids = switch_ports.port_ids(port.port_id, port.mac)
    if port.vm_uuid is not None:
        ids["vm-uuid"] = port.vm_uuid
    return ids


def _need_port(wiring, bridge, name, ids):
    changes = []
    found = wiring.interfaces.get(name)
    if name not in switch_ports.ports(bridge):
        changes += _adding(bridge, name)
        found = None
    changes += _setting(found, name, ids)
    _carry_out(wiring, changes, (name,))


def _adding(bridge, name):
    # It may be in another bridge.
    return [["--if-exists", "del-port", name], ["add-port", bridge, name]]


def _setting(found, name, ids):
    """Return the changes that give an interface external ids that it has not."""
    if found is not None:
        ids = {
            key: value for key, value in ids.items()
            if found.external_ids.get(key) != value
        }
    return [switch_ports.external_ids(name, ids)] if ids else []


def _carry_out(wiring, changes, names):
    """Change rows at once, and see that the switch did what they say."""
    if not changes:
        return
    switch_ports.change(*changes)
    for name in names:
        wiring.note(name)
    made = switch_ports.named(names)
    for name in names:
        found = made.get(name)
        if found is None or found.error or found.ofport in (None, -1):
            raise failures.Failure(
                failures.COMMAND_FAILED, "put %s into its bridge" % name,
                (found and found.error) or "Open vSwitch gave it no port number",
            )


def _free_id(wiring, port):
    """Take the port's id from interfaces that should not carry it.

    With two of them Neutron's agent would look after the wrong one. The host's own
    script gives one to a VIF that has it as nicira-iface-id.
    """
    names = wiring.names
    right = names.qvo if port.hybrid else names.tap
    wrong = [
        other.name
        for other in switch_ports.interfaces(
            "external-ids:iface-id=" + switch_ports.quoted(wiring.port_id)
        )
        if other.name != right
    ]
    if wrong:
        switch_ports.change(
            *[["remove", "Interface", name, "external-ids", "iface-id"]
              for name in wrong]
        )
    for name in wrong:
        wiring.note(name)


def _fit_devices(wiring, port):
    """Give the guest's interface the port's MTU, where the host has made it."""
    there = set(switch_ports.ports(port.bridge))
    for name in port.devices:
        found = wiring.link(name)
        if found is not None and name in there and found.mtu != port.mtu:
            links.change(name, "mtu", str(port.mtu))
            wiring.note(name)


# --- removal --------------------------------------------------------------------------


def _remove(wiring):
    # Neutron's agent is to see the port go before what is behind it.
    wiring.delete_ports(wiring.names)
    for name in wiring.names:
        wiring.delete(name)


def _remove_bridge(wiring, bridge):
    if not port_names.is_interim(bridge) or bridge not in switch_ports.bridges():
        return
    if switch_ports.is_vlan(bridge):
        return
    if not switch_ports.ports(bridge):
        switch_ports.change(["--if-exists", "del-br", bridge])
        wiring.note(bridge)
