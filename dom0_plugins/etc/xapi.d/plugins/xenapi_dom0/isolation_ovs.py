# SPDX-License-Identifier: Apache-2.0
"""Isolation on a host with Open vSwitch: its ports, and our flows on its bridges."""
import collections
import json
import re

from xenapi_dom0 import commands, failures, isolation_flows, paths
from xenapi_dom0.serve import LOG

TIMEOUT = 30  # seconds for one command
GUEST_PORT = re.compile(r"(?:vif|tap)([0-9]+\.[0-9]+)\Z")
# Names that only XAPI gives. On a bridge of others, such as Neutron's integration
# bridge, an agent adds ports of its own, which a closed bridge would cut off.
_XAPI_BRIDGES = ("xen", "xapi")
# What bridges speak by default, and what Neutron lets them speak.
_VERSIONS = "OpenFlow10,OpenFlow13,OpenFlow14"
_OURS = "cookie=0x%x/0x%x" % (isolation_flows.COOKIES, isolation_flows.COOKIE_MASK)
# Of the flow that shuts a port while a switch that knows no bundles gets the others;
# not one of ours, for it must outlast them.
_SHUTTER = 0xE15D << 48

_STATISTICS = re.compile(r" (?:duration|n_packets|n_bytes|idle_age|hard_age)=[^ ,]*,")

# vif_uuid: "" for what is no guest's; number: of OpenFlow, None while it has none
Port = collections.namedtuple("Port", "device vif_uuid bridge number")


class Switch:
    """The host's switch as its database describes it now.

    :ivar bridges: names of real bridges: VLAN bridges are ports of those
    :ivar ports: list of Port
    """

    def __init__(self):
        tables = _tables()
        interfaces = {row["_uuid"]: row for row in tables["Interface"]}
        owners = {}
        for row in tables["Interface"]:
            match = GUEST_PORT.match(row["name"])
            uuid = row["external_ids"].get("xs-vif-uuid", "").lower()
            # Others than the toolstack can write it, too: what is none tells nothing.
            if match and paths.UUID.match(uuid):
                # The emulated device and the PV one belong to the same VIF.
                owners[match.group(1)] = uuid
        members = {row["_uuid"]: row["interfaces"] for row in tables["Port"]}
        self.bridges = sorted(row["name"] for row in tables["Bridge"])
        self.ports = []
        for bridge in tables["Bridge"]:
            for port in bridge["ports"]:
                for uuid in members.get(port, ()):
                    if uuid in interfaces:
                        self._add(interfaces[uuid], bridge["name"], owners)

    def _add(self, row, bridge, owners):
        match = GUEST_PORT.match(row["name"])
        owner = owners.get(match.group(1), "") if match else ""
        number = row["ofport"]
        if not isinstance(number, int) or number <= 0:
            number = None  # the device is gone, or not there yet
        if row["name"] == bridge:
            number = "LOCAL"
        self.ports.append(Port(row["name"], owner, bridge, number))

    def of_vif(self, vif_uuid):
        """Return the Ports of a VIF that the switch can tell apart by a number."""
        return [port for port in self.ports
                if port.vif_uuid == vif_uuid and port.number is not None]


# What tells of a port that comes, goes or gets another number.
MONITOR = ["ovsdb-client", "--format=json", "monitor", "Open_vSwitch", "Interface",
           "name,ofport,external_ids"]


def layout():
    """Return dict of VIF uuid to what its rules were made for: ports and numbers."""
    found = {}
    for port in Switch().ports:
        if port.vif_uuid:
            found.setdefault(port.vif_uuid, set()).add(port[:1] + port[2:])
    return found


def vifs(_session):
    """Return the UUIDs of the VIFs that have a port on this host."""
    return sorted({port.vif_uuid for port in Switch().ports if port.vif_uuid})


def apply(vif, rights):
    """Let the VIF's ports send what its rights say; return the names of the ports.

    :param vif: isolation.Vif
    """
    return _put(vif, lambda port: isolation_flows.of_vif(vif.uuid, rights, port))


def shut(vif):
    """Let the VIF's ports send nothing; return the names of the ports."""
    return _put(vif, lambda port: isolation_flows.closed(vif.uuid, port))


def remove(vif):
    """Take away the flows of a VIF; return the names of its ports."""
    return _put(vif, lambda port: [])


def _put(vif, flows_of):
    switch = Switch()
    ports = switch.of_vif(vif.uuid)
    for bridge in switch.bridges:
        lines, numbers = [], []
        for port in ports:
            if port.bridge == bridge:
                numbers.append(port.number)
                lines += flows_of(port.number)
        _replace(bridge, isolation_flows.cookie(vif.uuid), lines, numbers)
    return sorted(port.device for port in ports)


def show(vif):
    """Return the VIF's flows as the switch has them now, a list of text."""
    said = "cookie=0x%x/-1" % isolation_flows.cookie(vif.uuid)
    return [line for bridge in Switch().bridges for line in _dump(bridge, said)]


def remembered():
    """Return the first 12 hexadecimal digits of each VIF that has flows here."""
    found = set()
    for bridge in Switch().bridges:
        for line in _dump(bridge, _OURS):
            digits = re.search(r"cookie=0x([0-9a-f]+)", line).group(1)
            found.add(digits.rjust(16, "0")[4:])
    return sorted(found - {"0" * 12, "f" * 12})


def trace(vif_uuid):
    """Return what :func:`remembered` has of a VIF."""
    return vif_uuid.replace("-", "")[:12]


def forget(digits):
    """Take away the flows of a VIF by the first 12 digits of its UUID."""
    cookie = isolation_flows.COOKIES | int(digits, 16)
    for bridge in Switch().bridges:
        _replace(bridge, cookie, [], [])


def close_bridges(closed, _known, free):
    """Let ports without flows of ours send nothing on XAPI's bridges, or open them.

    What is no guest's port is trusted: the physical ones, bonds, VLANs, LOCAL, tunnels,
    patches. The rule is by port and looks at no tag, so trunks stay trunks.

    :param closed: whether to close them
    :param free: names of the guests' ports that nobody wants isolated
    """
    switch = Switch()
    for bridge in switch.bridges:
        trusted = [port.number for port in switch.ports
                   if port.bridge == bridge and port.number is not None
                   and (port.device in free or not GUEST_PORT.match(port.device))]
        close = closed and bridge.startswith(_XAPI_BRIDGES)
        lines = isolation_flows.of_bridge(trusted) if close else []
        _replace(bridge, isolation_flows.BASE_COOKIE, lines, [])


def is_closed():
    """Say whether all bridges are closed that can be."""
    said = "cookie=0x%x/-1" % isolation_flows.BASE_COOKIE
    return all(_dump(bridge, said) for bridge in Switch().bridges
               if bridge.startswith(_XAPI_BRIDGES))


def _replace(bridge, cookie, lines, numbers):
    """Put flows in the place of those of a cookie, at one moment.

    :param numbers: ports of which older flows of ours go too, whosever they were: the
        switch gives a number again
    """
    gone = ["delete cookie=0x%x/-1" % cookie]
    for number in numbers:
        gone += ["delete %s,in_port=%s" % (_OURS, number)]
    change = gone + ["add " + line for line in lines]
    if not lines and not _dump(bridge, "cookie=0x%x/-1" % cookie):
        return
    try:
        # A killed call may have left a port shut.
        opened = ["delete cookie=0x%x/-1,in_port=%s" % (_SHUTTER, number)
                  for number in numbers]
        _ofctl(["--bundle", "add-flows", bridge, "-"], change + opened)
    except failures.Failure as exc:
        if exc.code != failures.COMMAND_FAILED:
            raise
        LOG.info("%s takes no bundle, so its ports are shut meanwhile: %s", bridge,
                 exc.params[-1])
        _replace_step_by_step(bridge, change, numbers)


def _replace_step_by_step(bridge, change, numbers):
    """The same on a bridge without OpenFlow 1.4: its ports are shut in between."""
    shut = ["add cookie=0x%x,table=0,priority=%d,in_port=%s,actions=drop"
            % (_SHUTTER, isolation_flows.PRIORITY + 1, number) for number in numbers]
    opened = ["delete cookie=0x%x/-1,in_port=%s" % (_SHUTTER, number)
              for number in numbers]
    _ofctl(["-O", _VERSIONS, "add-flows", bridge, "-"], shut + change + opened)


def _dump(bridge, match):
    out = _ofctl(["-O", _VERSIONS, "dump-flows", bridge, match])
    return [_STATISTICS.sub("", line.strip())
            for line in out.splitlines() if "cookie=" in line]


def _ofctl(argv, lines=()):
    data = "".join(line + "\n" for line in lines).encode("ascii")
    command = ["ovs-ofctl", "--timeout=%d" % (TIMEOUT - 5)] + argv
    return commands.run(command, timeout=TIMEOUT, data=data).out


def _tables():
    """Return the rows of the database's tables that tell of ports."""
    asked = (("Bridge", "name,ports"), ("Port", "_uuid,interfaces"),
             ("Interface", "_uuid,name,ofport,external_ids"))
    command = ["ovs-vsctl", "--timeout=%d" % (TIMEOUT - 5), "--format=json"]
    for table, columns in asked:
        command += ["--", "--columns=" + columns, "list", table]
    out = commands.run(command, timeout=TIMEOUT).out
    tables = {}
    for (table, _columns), line in zip(asked, out.splitlines()):
        listed = json.loads(line)
        tables[table] = [
            _row(dict(zip(listed["headings"], cells))) for cells in listed["data"]
        ]
    return tables


def _row(cells):
    """Return a row with OVSDB's notation of sets, maps and UUIDs taken off."""
    row = {name: _plain(value) for name, value in cells.items()}
    for name in ("ports", "interfaces"):
        # A set of one is written as its member.
        if name in row and not isinstance(row[name], list):
            row[name] = [row[name]]
    return row


def _plain(value):
    if isinstance(value, list) and len(value) == 2:
        kind, inner = value
        if kind == "uuid":
            return inner
        if kind == "set":
            return [_plain(item) for item in inner]
        if kind == "map":
            return {key: text for key, text in inner}
    return value
