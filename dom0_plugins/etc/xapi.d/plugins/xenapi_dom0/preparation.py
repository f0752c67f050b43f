# SPDX-License-Identifier: Apache-2.0
"""Prepare this host for the driver: folders, Open vSwitch, firewall, modules.

Each part is looked at first and left alone where it is in order. What somebody else
made is never removed; where it is in the way, the part is refused with what to do.
"""
import collections
import os
import re

from xenapi_dom0 import commands, failures, inspection, locks, paths, xapi

DONE, UNCHANGED, REFUSED = "done", "unchanged", "refused"
# From this toolstack on kernels have to lie in the folder /var/lib/xcp/guest itself.
NEW_KERNELS = (24, 20)
CHAIN = "RH-Firewall-1-INPUT"  # where a host's own rules for what comes in are
MODULES = "/etc/modprobe.d"
OFF = ".off"  # modprobe reads what ends in .conf

# storage: folder of the SR, None: none that is file-based; toolstack: its version, ()
# where it is not known; source: IP address that may reach Open vSwitch, None: no rule
Host = collections.namedtuple("Host", "storage toolstack source")


def images(host):
    """Make /images a link to a folder on the SR."""
    return _linked("/images", "os-images", host.storage)


def kernels(host):
    """Make the folder from which the host boots kernels of guests."""
    if host.toolstack and host.toolstack < NEW_KERNELS:
        # Behind a link, so that what is left over cannot fill dom0's own disk.
        return _linked("/boot/guest", "os-guest-kernels", host.storage)
    place = paths.host_path("/var/lib/xcp/guest")
    if os.path.isdir(place):
        return UNCHANGED, ""
    if not host.toolstack:
        return REFUSED, "XAPI does not tell its version, on which the folder depends"
    os.makedirs(place, 0o755)
    return DONE, "made /var/lib/xcp/guest"


def _linked(path, name, storage):
    place = paths.host_path(path)
    found = os.stat(place).st_dev if os.path.isdir(place) else None
    if found is not None and os.path.islink(place):
        if storage is None or found == os.stat(storage).st_dev:
            return UNCHANGED, ""
        return REFUSED, path + " leads to another disk than the SR's: move it away"
    if storage is None:
        return REFUSED, "no file-based SR is known: make one the pool's default SR"
    if found is not None:
        if found == os.stat(storage).st_dev and os.listdir(place):
            return UNCHANGED, ""
        try:
            os.rmdir(place)
        except OSError:
            return REFUSED, path + " has files in it on another disk: move them away"
    elif os.path.lexists(place):
        return REFUSED, path + " is no folder, or leads nowhere: move it away"
    target = os.path.join(storage, name)
    os.makedirs(target, 0o700, exist_ok=True)
    shown = "%s/%s/%s" % (paths.SR_MOUNTS, os.path.basename(storage), name)
    # A host's own path, which in a scratch root leads elsewhere.
    os.symlink(paths.host_path(shown), place)
    return DONE, "made %s a link to %s" % (path, shown)


def _run(argv, accept=(0,)):
    """Run a program that changes the host; a scratch root's host is that root alone."""
    root = paths.host_path("")
    if root and not commands.find(argv[0]).startswith(root + "/"):
        raise failures.Failure(failures.COMMAND_MISSING, argv[0])
    return commands.run(argv, accept=accept)


def ovsdb(host):
    """Let Open vSwitch listen to Neutron's agent; other managers stay."""
    target = "ptcp:%d" % inspection.OVSDB_PORT
    if target in _run(["ovs-vsctl", "get-manager"]).out.split():
        return UNCHANGED, ""
    _run([
        "ovs-vsctl", "--", "--id=@new", "create", "Manager",
        'target="%s"' % target.replace(":", "\\:"),
        "--", "add", "Open_vSwitch", ".", "manager_options", "@new",
    ])
    return DONE, "it listens on TCP port %d" % inspection.OVSDB_PORT


def firewall(host):
    """Let Neutron's agent, and nobody else, reach Open vSwitch."""
    if host.source is None:
        return REFUSED, "say from where Neutron's agent comes: --from ADDRESS"
    command = "iptables" if host.source.version == 4 else "ip6tables"
    rules = _run([command, "-w", "-S"]).out.split("\n")
    chain = CHAIN if "-N " + CHAIN in rules else "INPUT"
    source = "%s/%d" % (host.source, host.source.max_prefixlen)
    rule = [
        chain, "-s", source, "-p", "tcp", "-m", "tcp",
        "--dport", str(inspection.OVSDB_PORT), "-j", "ACCEPT",
    ]
    if _run([command, "-w", "-C"] + rule, accept=(0, 1)).code == 0:
        return UNCHANGED, ""
    _run([command, "-w", "-I"] + rule)
    _run(["service", command, "save"])
    return DONE, "TCP port %d is open for %s" % (inspection.OVSDB_PORT, host.source)


def bridges(host):
    """Let Linux bridges be loaded, as Neutron's hybrid ports need them."""
    folder = paths.host_path(MODULES)
    names = [
        name for name in (os.listdir(folder) if os.path.isdir(folder) else ())
        if name.startswith("blacklist-bridge") and not name.endswith(OFF)
    ]
    for name in names:
        os.rename(os.path.join(folder, name), os.path.join(folder, name + OFF))
    if not names:
        return UNCHANGED, ""
    return DONE, "renamed %s, with %s" % (", ".join(sorted(names)), OFF)


PARTS = collections.OrderedDict([
    ("images", images), ("kernels", kernels), ("ovsdb", ovsdb),
    ("firewall", firewall), ("bridges", bridges),
])


def prepare(parts, host):
    """Prepare the parts and return [part, state, remark] of each.

    :raises Failure: BUSY
    """
    rows = []
    with locks.held("host", "preparation"):
        for part in parts:
            try:
                state, remark = PARTS[part](host)
            except failures.Failure as exc:
                state, remark = REFUSED, ": ".join([exc.code] + exc.params)
            except OSError as exc:
                state, remark = REFUSED, str(exc.strerror or exc)
            rows.append([part, state, remark])
    return rows


def host_of(session, uuid, storage=None, source=None):
    """Return what the parts have to know of this host.

    :param storage: folder of the SR; None: of the pool's default SR
    :param source: IP address from which Neutron's agent comes
    """
    known = inspection.pool(session, uuid)
    version = re.match(r"(\d+)\.(\d+)", known.get("toolstack", ""))
    return Host(
        storage or known.get("storage"),
        tuple(int(number) for number in version.groups()) if version else (),
        source,
    )


def main():
    """What the RPM does after its installation: /images, or why not. Never fails."""
    try:
        with xapi.local_login() as session:
            host = host_of(session, inspection.inventory_uuid())
            ((_part, state, remark),) = prepare(["images"], host)
        print("/images: " + ": ".join(text for text in (state, remark) if text))
    except failures.Failure as exc:
        print("/images was not looked at: " + ", ".join([exc.code] + exc.params))


if __name__ == "__main__":
    main()
