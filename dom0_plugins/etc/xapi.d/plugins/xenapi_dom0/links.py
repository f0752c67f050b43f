# SPDX-License-Identifier: Apache-2.0
"""Network devices of dom0: which there are, and changes to the few that are ours.

Only ``ip`` is asked: every dom0 with a Python 3 has it, brctl came and went. It prints
text, as the iproute2 of today's dom0 knows no JSON yet.
"""
import collections
import re

from xenapi_dom0 import commands, failures

TIMEOUT = 30  # seconds

# ``peer``: the other end of a veth pair, or None; ``master``: the bridge that it is in;
# ``forward_delay`` (1/100 s) and ``stp``: of a bridge; ``flags``: UP, PROMISC, ...
Link = collections.namedtuple(
    "Link", "name peer flags mtu master kind forward_delay stp"
)

_HEAD = re.compile(r"[0-9]+: ([^:@\s]+)(?:@([^:\s]+))?: <([^>]*)>")


def listed():
    """Return all network devices of dom0: a dict of name to Link."""
    out = commands.run(["ip", "-o", "-d", "link", "show"], timeout=TIMEOUT).out
    found = [_parse(line) for line in out.splitlines()]
    return {link.name: link for link in found if link is not None}


def _parse(line):
    head = _HEAD.match(line)
    if head is None:
        return None
    name, peer, flags = head.groups()
    bridge = re.search(r"\\\s+bridge forward_delay ([0-9]+)", line)
    kind = "bridge" if bridge else "veth" if re.search(r"\\\s+veth\b", line) else ""
    return Link(
        name, peer if kind == "veth" else None, frozenset(flags.split(",")),
        int(_word(line, "mtu", "0")), _word(line, "master", None), kind,
        int(bridge.group(1)) if bridge else None,
        _word(line, "stp_state", "0") != "0",
    )


def _word(line, name, default):
    match = re.search(r"\s%s (\S+)" % name, line)
    return match.group(1) if match else default


def add_bridge(name):
    """Make a Linux bridge that forwards at once and takes part in no spanning tree."""
    try:
        commands.run(
            ["ip", "link", "add", "name", name, "type", "bridge", "forward_delay", "0",
             "stp_state", "0", "mcast_snooping", "0"], timeout=TIMEOUT,
        )
    except failures.Failure as exc:
        if exc.code == failures.COMMAND_FAILED and _no_bridges(exc.params[1]):
            raise failures.Failure(
                failures.NOT_SUPPORTED, "Linux bridges",
                "dom0 cannot load the module bridge: see /etc/modprobe.d/blacklist-*",
            ) from exc
        raise


def _no_bridges(reason):
    return "Operation not supported" in reason or "Unknown device type" in reason


def set_bridge(name, setting, value):
    """Set one option of a Linux bridge, as ip names it."""
    commands.run(
        ["ip", "link", "set", "dev", name, "type", "bridge", setting, str(value)],
        timeout=TIMEOUT,
    )


def add_pair(one, other):
    """Make a veth pair."""
    commands.run(
        ["ip", "link", "add", "name", one, "type", "veth", "peer", "name", other],
        timeout=TIMEOUT,
    )


def change(name, *settings):
    """Change a device: ``settings`` are words of ``ip link set``."""
    commands.run(["ip", "link", "set", "dev", name] + list(settings), timeout=TIMEOUT)


def delete(name):
    """Remove a device; the other end of a pair goes with it."""
    commands.run(["ip", "link", "delete", "dev", name], timeout=TIMEOUT)


def without_ipv6(names):
    """Have dom0 itself stay silent on devices that carry others' traffic.

    Without it dom0 would take part in a tenant's network: it would announce itself
    and believe the routers that it finds there.
    """
    # A kernel without IPv6 has no such setting: -e makes that no error.
    commands.run(
        ["sysctl", "-q", "-e"]
        + ["net.ipv6.conf.%s.disable_ipv6=1" % name for name in names],
        timeout=TIMEOUT,
    )
