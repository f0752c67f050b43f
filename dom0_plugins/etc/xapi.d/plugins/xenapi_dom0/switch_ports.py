# SPDX-License-Identifier: Apache-2.0
"""Ports of the host's Open vSwitch: read and change rows of its database.

What belongs together is changed in one transaction, because Neutron's agent looks at a
port the moment it appears.
"""
import collections
import json

from xenapi_dom0 import commands, failures

TIMEOUT = 30  # seconds that the switch may take to do what the database says

Interface = collections.namedtuple(
    "Interface", "name kind external_ids options ofport error"
)
_COLUMNS = "name,type,external_ids,options,ofport,error"


def change(*changes):
    """Carry out changes, each a list of ovs-vsctl's words, as one transaction."""
    words = []
    for one in changes:
        words += ["--"] + one
    return _vsctl(words)


def bridges():
    """Return the names of all bridges."""
    return _vsctl(["list-br"]).split()


def ports(bridge):
    """Return the names of a bridge's ports."""
    return _vsctl(["list-ports", bridge]).split()


def is_vlan(bridge):
    """Say whether it is no bridge but a VLAN of one, that looks like a bridge."""
    return _vsctl(["br-to-vlan", bridge]).strip() != "0"


def interfaces(*condition):
    """Return the Interfaces that a condition of ``ovs-vsctl find`` names."""
    return _interfaces(["--columns=" + _COLUMNS, "find", "Interface"] + list(condition))


def named(names):
    """Return those Interfaces of these names that there are: a dict of name to it."""
    found = _interfaces(
        ["--if-exists", "--columns=" + _COLUMNS, "list", "Interface"] + list(names)
    )
    return {interface.name: interface for interface in found}


def _interfaces(words):
    text = _vsctl(["--format=json", "--"] + words)
    found = []
    for name, kind, external_ids, options, ofport, error in json.loads(text)["data"]:
        found.append(
            Interface(
                name, kind, _map(external_ids), _map(options), _one(ofport), _one(error)
            )
        )
    return found


def _map(value):
    """Return a dict for RFC 7047's form of a map."""
    return dict(value[1])


def _one(value):
    """Return the value of an optional column; None where it has none."""
    if isinstance(value, list):
        return value[1][0] if value[1] else None
    return value


def quoted(text):
    """Return text as a value in ovs-vsctl's words: in quotes it is always a string."""
    return json.dumps(text)


def external_ids(name, values):
    """Return the change that sets external ids of an interface."""
    return ["set", "Interface", name] + [
        "external-ids:%s=%s" % (quoted(key), quoted(value))
        for key, value in sorted(values.items())
    ]


def port_ids(port_id, mac, status="active"):
    """Return the external ids by which Neutron's agent knows a port."""
    return {
        "iface-id": port_id,
        "iface-status": status,
        "attached-mac": mac,
        # The host's own openvswitch-xapi-sync writes what stands here to iface-id.
        "xs-vif-uuid": port_id,
    }


def _vsctl(words):
    try:
        return commands.run(
            ["ovs-vsctl", "--timeout=%d" % TIMEOUT] + words, timeout=TIMEOUT + 10
        ).out
    except failures.Failure as exc:
        # ovs-vsctl ends itself by SIGALRM.
        if exc.code == failures.COMMAND_FAILED and "signal 14" in exc.params[1]:
            raise failures.Failure(
                failures.TIMED_OUT, "Open vSwitch to do what was asked", TIMEOUT
            ) from exc
        raise
