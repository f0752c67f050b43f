# SPDX-License-Identifier: Apache-2.0
"""OpenFlow flows that let a port send only what its VIF may: text in ovs-ofctl's form.

A frame of an isolated port goes from table 0, before any flow of others, to a table of
ours. What is legal gets a mark and goes back to table 0, where ours no longer matches:
the host's ``normal`` flow, XAPI's or Neutron's treat it as if we were not there. What
is left is dropped, before any switch could learn its forged MAC.

Each VIF's flows carry a cookie of their own, so that they are replaced and removed
without touching those of others.

Two limits are the switch's: it shows no ports of a fragment, so a fragmented UDP
datagram is not looked into (one to a broadcast or multicast IPv4 address is dropped
all the same), and of ICMPv6 no fragments are let through.
"""

TABLE = 200  # Neutron's tables are 0 to 100
PRIORITY = 64000  # in table 0; Neutron's are below 1000, XAPI's below 10
# Bit 31 of a register: Neutron counts in registers 2, 5, 6 and up, from below.
_UNMARKED = "reg1=0/0x80000000"
_ON = "actions=load:1->NXM_NX_REG1[31],resubmit(,0)"
_DROP = "actions=drop"

COOKIES = 0xE15C << 48  # the upper 16 bits say ours, the others whose
COOKIE_MASK = 0xFFFF << 48
BASE_COOKIE = COOKIES  # of the flows of a closed bridge, which belong to no VIF

# ICMPv6 that an ordinary host sends: errors, echo, multicast listening, asking for
# routers. Not: router advertisements (134), redirects (137), listener queries (130).
ICMP6 = (1, 2, 3, 4, 128, 129, 131, 132, 133, 143)
# Those that it also sends before it has an address.
ICMP6_UNSPECIFIED = (131, 133, 143)
# Protocols over IPv6 beside ICMPv6: TCP, UDP, GRE, ESP, SCTP.
PROTOCOLS6 = (6, 17, 47, 50, 132)
_FRAGMENT6 = 44  # the protocol that the switch sees in a later fragment


def cookie(vif_uuid):
    """Return the cookie of a VIF's flows, a number."""
    return COOKIES | int(vif_uuid.replace("-", "")[:12], 16)


def of_vif(vif_uuid, rights, port):
    """Return the flows of one port of a VIF, a list of texts.

    :param rights: vif_rights.Rights
    :param port: OpenFlow port number
    """
    lines = ["table=0,priority=%d,%s,in_port=%d,actions=resubmit(,%d)"
             % (PRIORITY, _UNMARKED, port, TABLE)]
    mine = "in_port=%d,vlan_tci=0,dl_src=%s" % (port, rights.mac)
    matches = _arp(rights) + _ipv4(rights) + _ipv6(rights) + _neighbours(rights)
    for priority, match, action in matches:
        lines.append("table=%d,priority=%d,%s,%s,%s"
                     % (TABLE, priority, mine, match, action))
    lines.append("table=%d,priority=10,in_port=%d,%s" % (TABLE, port, _DROP))
    return ["cookie=0x%x,%s" % (cookie(vif_uuid), line) for line in lines]


def closed(vif_uuid, port):
    """Return the flows that let nothing of a port through."""
    line = "cookie=0x%x,table=0,priority=%d,in_port=%d,%s"
    return [line % (cookie(vif_uuid), PRIORITY, port, _DROP)]


def of_bridge(trusted):
    """Return the flows of a bridge on which a port without flows may send nothing.

    :param trusted: OpenFlow port numbers, and LOCAL, of what is no guest's
    """
    lines = ["table=0,priority=%d,%s,actions=resubmit(,%d)"
             % (PRIORITY - 1, _UNMARKED, TABLE)]
    lines += ["table=%d,priority=5,in_port=%s,%s" % (TABLE, port, _ON)
              for port in trusted]
    lines.append("table=%d,priority=0,%s" % (TABLE, _DROP))
    return ["cookie=0x%x,%s" % (BASE_COOKIE, line) for line in lines]


def _arp(rights):
    sender = "arp,arp_sha=%s,arp_op=%d,arp_spa=%s"
    found = [(20, sender % (rights.mac, op, address), _ON)
             for address in rights.ipv4 for op in (1, 2)]
    # A probe, before an address is taken (RFC 5227): it teaches nobody anything.
    return found + [(20, sender % (rights.mac, 1, "0.0.0.0"), _ON)]


def _ipv4(rights):
    dhcp = "udp,nw_src=%s,nw_dst=255.255.255.255,tp_src=68,tp_dst=67"
    found = [(50, dhcp % source, _ON) for source in ("0.0.0.0",) + rights.ipv4]
    found += [(40, "udp,tp_src=67", _DROP), (40, "udp,tp_dst=68", _DROP)]
    many = ("dl_dst=01:00:00:00:00:00/01:00:00:00:00:00",
            "nw_dst=224.0.0.0/4", "nw_dst=240.0.0.0/4")
    found += [(30, "ip," + match, _DROP) for match in many]
    return found + [(20, "ip,nw_src=%s" % source, _ON) for source in rights.ipv4]


def _ipv6(rights):
    found = [(40, "udp6,tp_src=547", _DROP), (40, "udp6,tp_dst=546", _DROP)]
    for source in rights.ipv6:
        said = "ipv6_src=%s" % source
        found += [(20, "ipv6,nw_proto=%d,%s" % (protocol, said), _ON)
                  for protocol in PROTOCOLS6]
        found += [(20, "icmp6,icmp_type=%d,%s,nw_frag=no" % (kind, said), _ON)
                  for kind in ICMP6]
        if not source.network_address.is_link_local:
            # What receivers believe from a link-local address only could hide in it.
            found.append((20, "ipv6,nw_proto=%d,%s" % (_FRAGMENT6, said), _ON))
    return found + [
        (20, "icmp6,icmp_type=%d,ipv6_src=::,nw_frag=no" % kind, _ON)
        for kind in ICMP6_UNSPECIFIED
    ]


def _neighbours(rights):
    """Return what passes of neighbour discovery; an option left out reads as zeros."""
    hardware = (rights.mac, "00:00:00:00:00:00")
    whole = "icmp6,icmp_code=0,nw_frag=no,icmp_type="
    ask = whole + "135,ipv6_src=%s,nd_sll=%s"
    tell = whole + "136,ipv6_src=%s,nd_target=%s,nd_tll=%s"
    found = []
    for mac in hardware:
        for source in rights.ipv6:
            found.append((20, ask % (source, mac), _ON))
            found += [(20, tell % (source, target, mac), _ON)
                      for target in rights.ipv6]
    # Asking whether an address is taken: only for its own.
    taken = whole + "135,ipv6_src=::,nd_target=%s"
    found += [(20, taken % target, _ON) for target in rights.ipv6]
    return found
