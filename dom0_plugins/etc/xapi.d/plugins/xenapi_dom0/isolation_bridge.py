# SPDX-License-Identifier: Apache-2.0
"""Isolation on a host whose networks are the kernel's bridges: ebtables and tc."""
import contextlib
import re

from xenapi_dom0 import commands, failures, isolation_chains, xapi, xenstore
from xenapi_dom0.serve import LOG

TIMEOUT = 30  # seconds for one command
GUEST_PORT = re.compile(r"(?:vif|tap)([0-9]+)\.([0-9]+)\Z")
_LINK = re.compile(r"[0-9]+: ([^:@ ]+)")
_CHAIN = re.compile(r"Bridge chain: ([^,]+),")
_JUMP = re.compile(r"-i (\S+) .*-j (\S+)")
_PRIORITY = re.compile(r"pref ([0-9]+) ")
# Where a device's filters begin; the other is free for those that replace them.
_FIRST = (20000, 21000)
_EVERY_GUEST = ("vif+", "tap+")
_CLOSED = isolation_chains.CHAIN + "closed-"
# What tells of a device that comes or goes.
MONITOR = ["ip", "-o", "monitor", "link"]


def layout():
    """Return what rules were made for: under one key, for XAPI alone knows more."""
    return {"": set(_devices())}


def vifs(session):
    """Return the UUIDs of the VIFs that have a device on this host."""
    positions = {GUEST_PORT.match(name).groups() for name in _devices()}
    found = set()
    for domid, vm_uuid in _domains().items():
        theirs = {number for domain, number in positions if domain == domid}
        if theirs:
            # A VM or VIF that is destroyed at this moment must not keep the rules of
            # all the others from being made.
            refs = ()
            with _unless_gone():
                vm = session.call("VM.get_by_uuid", vm_uuid)
                refs = session.call("VM.get_VIFs", vm)
            for ref in refs:
                with _unless_gone():
                    record = session.call("VIF.get_record", ref)
                    if record["device"] in theirs:
                        found.add(record["uuid"])
    return sorted(found)


@contextlib.contextmanager
def _unless_gone():
    try:
        yield
    except xapi.Refused as exc:
        if exc.error[0] not in ("UUID_INVALID", "HANDLE_INVALID"):
            raise


def apply(vif, rights):
    """Let the VIF's devices send what its rights say; return their names."""
    names, there = _names_of(vif)
    if not there:
        return remove(vif)
    stem, rules = isolation_chains.stem(vif.uuid), isolation_chains.rules(rights)
    # What stands needs no work, which is fifty programs to start.
    same = isolation_chains.name(stem, rules) in _chains()[0]
    neighbours = all([_set_filters(device, rights, same) for device in there])
    if not neighbours:
        rules = isolation_chains.rules(rights, neighbours=False)
    _set_chain(stem, rules, names)
    return there


def shut(vif):
    """Let the VIF's devices send nothing; return their names."""
    names, there = _names_of(vif)
    _set_chain(isolation_chains.stem(vif.uuid), isolation_chains.SHUT, names)
    return there


def remove(vif):
    """Take away the rules of a VIF; return the names of its devices."""
    _names, there = _names_of(vif)
    for device in there:
        _delete_filters(device, _filters_of(device))
    forget(isolation_chains.stem(vif.uuid))
    return there


def show(vif):
    """Return the VIF's rules and filters as they are now, a list of text."""
    stem = isolation_chains.stem(vif.uuid)
    chains, jumps = _chains()
    found = ["-A PREROUTING -i %s -j %s" % jump for jump in jumps
             if jump[1].startswith(stem)]
    for name in chains:
        if name.startswith(stem):
            found += ["-A %s %s" % (name, rule) for rule in chains[name]]
    for device in _names_of(vif)[1]:
        found += ["tc dev %s pref %d" % (device, pref) for pref in _filters_of(device)]
    return found


def remembered():
    """Return the stems of all chains of ours that some frame comes to."""
    chains, jumps = _chains()
    return sorted({target[:-8] for _device, target in jumps if target in chains})


def trace(vif_uuid):
    """Return what :func:`remembered` has of a VIF."""
    return isolation_chains.stem(vif_uuid)


def forget(stem):
    """Take away the chains whose names begin so."""
    chains, jumps = _chains()
    for device, name in jumps:
        if name.startswith(stem):
            _ebtables("-D", "PREROUTING", "-i", device, "-j", name)
    for name in chains:
        if name.startswith(stem):
            _drop_chain(name)


def close_bridges(closed, known, _free):
    """Let guests' devices of which nothing is known send nothing; or open them again.

    :param closed: which of both
    :param known: names of the guests' devices that were judged
    """
    if not closed:
        forget(_CLOSED)
        return
    rules = []
    for device in known:
        match = GUEST_PORT.match(device)
        rules += [["-i", "%s%s.%s" % ((kind,) + match.groups()), "-j", "RETURN"]
                  for kind in ("vif", "tap")]
    _set_chain(_CLOSED, rules + isolation_chains.SHUT, _EVERY_GUEST)


def is_closed():
    """Say whether devices of which nothing is known can send nothing."""
    return _CLOSED in remembered()


def _set_chain(stem, rules, devices):
    """Have a chain of these rules judge what the devices send, in place of an older.

    The older one judges until the new one is whole; where there is none, nothing
    passes meanwhile.

    :param stem: how the names of both begin
    """
    new = isolation_chains.name(stem, rules)
    chains, jumps = _chains()
    reached = {device for device, name in jumps if name.startswith(stem)}
    if len(chains.get(new, ())) != len(rules):
        broken = (new in {name for _device, name in jumps}
                  or not reached.issuperset(devices))
        if broken and rules != isolation_chains.SHUT:
            _set_chain(stem, isolation_chains.SHUT, devices)
            chains, jumps = _chains()
        if new in chains:
            _drop_chain(new)  # a killed call got so far
        _ebtables("-N", new)
        for rule in rules:
            _ebtables("-A", new, *rule)
    for device in devices:
        if (device, new) not in jumps:
            _ebtables("-I", "PREROUTING", "1", "-i", device, "-j", new)
    for device, name in jumps:
        wanted = name == new and device in devices
        ours = name.startswith(stem)
        # A chain that another VIF's killed call left on a device that is ours now.
        other = name.startswith(isolation_chains.CHAIN) and device in devices
        if (ours or other) and not wanted:
            _ebtables("-D", "PREROUTING", "-i", device, "-j", name)
    for name in chains:
        if name.startswith(stem) and name != new:
            _drop_chain(name)


def _drop_chain(name):
    _ebtables("-F", name)
    _ebtables("-X", name)


def _set_filters(device, rights, same):
    """Look into the device's neighbour discovery; return False where tc cannot.

    :param same: the rules were made for the same rights
    """
    old = _filters_of(device)
    first = _FIRST[1] if old and min(old) < _FIRST[1] else _FIRST[0]
    lines = isolation_chains.filters(rights, device, first)
    if same and len(old) == len(lines):
        return True
    try:
        _tc(["qdisc", "add", "dev", device, "ingress"], accept=(0, 1, 2))
        _tc(["-batch", "-"], lines)
    except failures.Failure as exc:
        LOG.warning("No IPv6 for %s, as its neighbour discovery cannot be looked "
                    "into: %s %s", device, exc.code, exc.params)
        return False
    _delete_filters(device, old)
    return True


def _delete_filters(device, priorities):
    # Those that pass come first: without them the others only drop more.
    for priority in sorted(priorities):
        _tc(["filter", "del", "dev", device, "parent", "ffff:", "protocol", "ipv6",
             "prio", str(priority)], accept=(0, 1, 2))


def _filters_of(device):
    said = _tc(["filter", "show", "dev", device, "parent", "ffff:"], accept=(0, 1, 2))
    found = {int(text) for text in _PRIORITY.findall(said)}
    return sorted(pref for pref in found if _FIRST[0] <= pref < _FIRST[1] + 1000)


def _names_of(vif):
    """Return the names that the VIF's devices have, or will have, and those there.

    The emulated device comes after the other, and its rules should be there before.
    A VM has two domains here while it migrates to this very host.
    """
    existing = _devices()
    domids = {domid for domid, uuid in _domains().items() if uuid == vif.vm_uuid}
    suffixes = set()
    for name in existing:
        domid, number = GUEST_PORT.match(name).groups()
        if domid in domids and vif.device in ("", number):
            suffixes.add("%s.%s" % (domid, number))
    names = [kind + suffix for suffix in sorted(suffixes) for kind in ("vif", "tap")]
    return names, [name for name in names if name in existing]


def _domains():
    """Return the domains of this host: dict of id, as text, to UUID of the VM.

    XAPI learns the id of a domain only after its devices came up, so the store that
    the toolstack builds it in is asked.
    """
    found = {}
    with xenstore.connected() as store:
        for domid in store.names("/local/domain") or ():
            path = store.read("/local/domain/%s/vm" % domid)
            if path is not None:
                # Some toolstacks add a number: /vm/<uuid>-1.
                text = path.decode("ascii", "replace").rpartition("/")[2]
                found[domid] = text[:36]
    return found


def _devices():
    """Return the names of the guests' devices that exist."""
    out = commands.run(["ip", "-o", "link", "show"], timeout=TIMEOUT).out
    names = [_LINK.match(line).group(1) for line in out.splitlines()
             if _LINK.match(line)]
    return [name for name in names if GUEST_PORT.match(name)]


def _chains():
    """Return our chains, and all of PREROUTING's plain jumps.

    :returns: dict of name to list of its rules; list of (device, target)
    """
    chains, jumps, name = {}, [], ""
    for line in _ebtables("-L").splitlines():
        match = _CHAIN.match(line)
        if match:
            name = match.group(1)
            if name.startswith(isolation_chains.CHAIN):
                chains[name] = []
        elif name in chains and line.strip():
            chains[name].append(line.strip())
        elif name == "PREROUTING" and _JUMP.match(line):
            jumps.append(_JUMP.match(line).groups())
    return chains, jumps


def _ebtables(*argv):
    # Another one at work, such as libvirt's or Neutron's, is waited for.
    command = ["ebtables", "--concurrent", "-t", "nat"] + list(argv)
    return commands.run(command, timeout=TIMEOUT).out


def _tc(argv, lines=(), accept=(0,)):
    data = "".join(line + "\n" for line in lines).encode("ascii")
    return commands.run(["tc"] + argv, timeout=TIMEOUT, data=data, accept=accept).out
