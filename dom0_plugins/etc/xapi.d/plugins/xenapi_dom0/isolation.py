# SPDX-License-Identifier: Apache-2.0
"""Keep each VIF to its own addresses: what to do for one, and for all of a host.

Rules are worked out anew each time, from XAPI's records and from the ports that are
there, so that it does not matter which of the hook, a plugin call and the watching
service comes first, or how often: what is there afterwards is right for that moment.
A lock for each VIF keeps two of them apart.

Where the file ``/etc/xapi.d/isolation-closed`` is, the host is closed: a guest's port
for which nothing is known may send nothing, from the moment that it appears.
"""
import collections
import os
import re

from xenapi_dom0 import (
    failures,
    isolation_bridge,
    isolation_ovs,
    locks,
    paths,
    vif_rights,
    xapi,
)
from xenapi_dom0.serve import LOG

BACKEND_FILE = "/etc/xensource/network.conf"
CLOSED_FILE = "/etc/xapi.d/isolation-closed"
WAIT = 60  # seconds for another call at the same VIF
_BACKENDS = {
    "openvswitch": isolation_ovs, "vswitch": isolation_ovs, "bridge": isolation_bridge,
}

# device: XAPI's number, as text; "" for what is not known
Vif = collections.namedtuple("Vif", "uuid vm_uuid device")


def backend():
    """Return the module for the switch that this host uses.

    :raises Failure: NOT_SUPPORTED
    """
    name = _content(BACKEND_FILE).strip()
    if name not in _BACKENDS:
        raise failures.Failure(
            failures.NOT_SUPPORTED, "isolation of VIFs",
            BACKEND_FILE + " names neither openvswitch nor bridge",
        )
    return _BACKENDS[name]


def closed():
    """Say whether this host's guests may send only what our rules let through."""
    return os.path.exists(paths.host_path(CLOSED_FILE))


def apply(session, vif_uuid):
    """Make the rules of a VIF what they should be now; return what was done.

    A VIF that has no port any more, or that nobody wants isolated, has none afterwards.

    :param session: xapi.Session
    :returns: {"vif": uuid, "isolated": bool, "why": text, "ports": [device name, ...],
        "addresses": [text, ...]}
    """
    switch = backend()
    with locks.held("isolation", vif_uuid, WAIT):
        # Read under the lock: who comes last has the last word's data.
        vif, verdict = _judged(session, vif_uuid)
        if verdict.rights is None:
            ports = switch.remove(vif)
        else:
            ports = switch.apply(vif, verdict.rights)
    LOG.info("VIF %s: %s, ports %s", vif_uuid, verdict.why, ports)
    return _report(vif_uuid, verdict, ports)


def remove(session, vif_uuid):
    """Take away the rules of a VIF, whatever anybody wants, until the next apply."""
    switch = backend()
    with locks.held("isolation", vif_uuid, WAIT):
        vif, _verdict = _judged(session, vif_uuid)
        switch.remove(vif)
    return {"vif": vif_uuid}


def show(session, vif_uuid):
    """Return what a VIF's rules should say, and what they are in the switch."""
    switch = backend()
    vif, verdict = _judged(session, vif_uuid)
    report = _report(vif_uuid, verdict, [])
    del report["ports"]
    report["rules"] = switch.show(vif)
    return report


def apply_all(session):
    """Do :func:`apply` for every VIF of this host, and drop rules of those gone.

    :returns: {"applied": [what apply returns, ...], "failed": {VIF uuid: text}}
    """
    switch = backend()
    applied, failed = [], {}
    for vif_uuid in switch.vifs(session):
        try:
            applied.append(apply(session, vif_uuid))
        except failures.Failure as exc:
            LOG.warning("VIF %s: %s %s", vif_uuid, exc.code, exc.params)
            failed[vif_uuid] = "%s: %s" % (exc.code, ", ".join(exc.params))
    _forget_the_gone(switch, set(failed) | {report["vif"] for report in applied})
    known = [port for report in applied for port in report["ports"]]
    free = [port for report in applied if not report["isolated"]
            for port in report["ports"]]
    with locks.held("isolation", "bridges", WAIT):
        switch.close_bridges(closed(), known, free)
    return {"applied": applied, "failed": failed}


def close_if_told():
    """Close a host that should be closed and is not, while XAPI does not answer.

    So it is after the switch started again without its flows.
    """
    switch = backend()
    if closed() and not switch.is_closed():
        with locks.held("isolation", "bridges", WAIT):
            switch.close_bridges(True, [], [])


def shut(vif_uuid, vm_uuid):
    """Let a VIF of which XAPI tells nothing send nothing; return its ports' names."""
    switch = backend()
    with locks.held("isolation", vif_uuid, WAIT):
        return switch.shut(Vif(vif_uuid, vm_uuid, ""))


def _judged(session, vif_uuid):
    """Return a Vif and the verdict on it; one that XAPI does not know is not isolated.
    """
    try:
        ref = session.call("VIF.get_by_uuid", vif_uuid)
        record = session.call("VIF.get_record", ref)
        vm = session.call("VM.get_record", record["VM"])
        network = session.call("network.get_record", record["network"])
    except xapi.Refused as exc:
        if exc.error[0] not in ("UUID_INVALID", "HANDLE_INVALID"):
            raise
        gone = vif_rights.Verdict(None, "XAPI does not know it")
        return Vif(vif_uuid, "", ""), gone
    vif = Vif(vif_uuid, vm["uuid"], record["device"])
    return vif, vif_rights.verdict(record, vm, network)


def _report(vif_uuid, verdict, ports):
    rights = verdict.rights
    return {
        "vif": vif_uuid,
        "isolated": rights is not None,
        "why": verdict.why,
        "ports": ports,
        "addresses": [] if rights is None else [
            str(network.network_address) if network.prefixlen == network.max_prefixlen
            else str(network) for network in rights.ipv4 + rights.ipv6
        ],
    }


def _forget_the_gone(switch, known):
    """Take away rules of VIFs that have no port here any more."""
    marks = {uuid.replace("-", "") for uuid in known}
    for trace in switch.remembered():
        digits = re.search("[0-9a-f]{12,}", trace)
        if digits and not any(mark.startswith(digits.group()) for mark in marks):
            LOG.info("Removing the rules of a VIF that is gone: %s", trace)
            switch.forget(trace)


def _content(path):
    try:
        with open(paths.host_path(path)) as file:
            return file.read(4096)
    except (OSError, UnicodeDecodeError):
        return ""
