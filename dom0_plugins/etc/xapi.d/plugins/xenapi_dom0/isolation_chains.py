# SPDX-License-Identifier: Apache-2.0
"""What a bridge of the kernel lets a port send: rules for ebtables, filters for tc.

Each VIF has a chain in ebtables' table nat, reached from PREROUTING for its devices:
there a frame is judged before the bridge learns its source MAC, which in the chain
FORWARD it has done already. A legal frame returns, so rules of others still see it.

ebtables (2.0.10 too) cannot look into neighbour discovery. That is done where the
frame enters the device, by u32 filters of tc, which say "pass" or send a forged frame
back to the guest it came from: the plain action "drop" would be one kernel module
more. Both together let the same through as isolation_flows, but for this: fragments of
a UDP datagram to a DHCP client are seen and dropped here.
"""

import hashlib
import json

CHAIN = "xi-"
SHUT = [["-j", "DROP"]]
CODES6 = ((1, 4), (128, 129), (131, 133), (143, 143))  # ranges of ICMPv6, see flows
CODES6_UNSPECIFIED = (131, 133, 143)
NEIGHBOURS = (135, 136)
PROTOCOLS6 = (6, 17, 47, 50, 132)
_FRAGMENT6 = 44
_ALL = 0xFFFFFFFF
_EXTENSIONS = (0, 43, 51, 60)  # hop by hop, routing, authentication, destination
_LISTENING = (131, 132, 143)


def stem(vif_uuid):
    """Return how the names of a VIF's chains begin."""
    return CHAIN + vif_uuid.replace("-", "")[:14] + "-"


def name(begin, lines):
    """Return the name of the chain of these rules: it tells them from others.

    :param begin: a stem of 18 characters at most: a name that a rule jumps to has 28
    """
    digest = hashlib.sha256(json.dumps(lines).encode("ascii")).hexdigest()
    return begin + digest[:8]


def rules(rights, neighbours=True):
    """Return the rules of a VIF's chain: lists of ebtables' arguments.

    :param rights: vif_rights.Rights
    :param neighbours: False where :func:`filters` could not be set: no IPv6 then
    """
    found = [["-s", "!", rights.mac, "-j", "DROP"]]
    found += _arp(rights) + _ipv4(rights)
    if neighbours:
        found += _ipv6(rights)
    return found + SHUT


def _arp(rights):
    sender = ["-p", "ARP", "--arp-mac-src", rights.mac, "--arp-ip-src"]
    probe = sender + ["0.0.0.0", "--arp-opcode", "1"]
    found = [sender + [str(address), "--arp-opcode", op]
             for address in rights.ipv4 for op in ("1", "2")]
    return [line + ["-j", "RETURN"] for line in found + [probe]]


def _ipv4(rights):
    udp = ["-p", "IPv4", "--ip-proto", "17"]
    ask = ["--ip-sport", "68", "--ip-dport", "67", "--ip-dst", "255.255.255.255"]
    sources = [["--ip-src", str(source)] for source in ("0.0.0.0",) + rights.ipv4]
    found = [udp + ask + source + ["-j", "RETURN"] for source in sources]
    dropped = [udp + ["--ip-sport", "67"], udp + ["--ip-dport", "68"]]
    dropped += [["-p", "IPv4", "-d", "01:00:00:00:00:00/01:00:00:00:00:00"]]
    dropped += [["-p", "IPv4", "--ip-dst", many]
                for many in ("224.0.0.0/4", "240.0.0.0/4")]
    found += [line + ["-j", "DROP"] for line in dropped]
    return found + [["-p", "IPv4"] + source + ["-j", "RETURN"]
                    for source in sources[1:]]


def _ipv6(rights):
    udp = ["-p", "IPv6", "--ip6-proto", "17"]
    found = [udp + ["--ip6-sport", "547", "-j", "DROP"],
             udp + ["--ip6-dport", "546", "-j", "DROP"]]
    for source in rights.ipv6:
        said = ["-p", "IPv6", "--ip6-src", str(source), "--ip6-proto"]
        passing = [said + [str(protocol)] for protocol in PROTOCOLS6]
        passing += [said + ["58", "--ip6-icmp-type", "%d:%d/0:255" % codes]
                    for codes in CODES6 + (NEIGHBOURS,)]
        if not source.network_address.is_link_local:
            passing.append(said + [str(_FRAGMENT6)])
        found += [line + ["-j", "RETURN"] for line in passing]
    nobody = ["-p", "IPv6", "--ip6-src", "::", "--ip6-proto", "58"]
    return found + [
        nobody + ["--ip6-icmp-type", "%d:%d/0:255" % (kind, kind), "-j", "RETURN"]
        for kind in CODES6_UNSPECIFIED + NEIGHBOURS[:1]
    ]


def filters(rights, device, first):
    """Return the lines that tc is to read: filters of a device's incoming frames.

    :param first: priority of the first; the others follow it one by one
    """
    back = "action mirred egress redirect dev " + device
    lines = []
    for matches, passes in _neighbours(rights) + _hidden():
        said = " ".join("match " + match for match in matches)
        lines.append(
            "filter add dev %s parent ffff: protocol ipv6 prio %d u32 %s %s"
            % (device, first + len(lines), said, "flowid 1:1" if passes else back)
        )
    return lines


def _neighbours(rights):
    """Return what to do with ND: lists of matches, and whether they pass, in order."""
    ask, tell = ([_byte(58, 6), _byte(kind, 40)] for kind in NEIGHBOURS)
    nobody = [_word(0, _ALL, at) for at in (8, 12, 16, 20)]
    targets = [_address(network, 48) for network in rights.ipv6]
    # Such a question teaches nobody a MAC, so its options do not matter.
    found = [(ask + nobody + target, True) for target in targets]
    found.append((ask + nobody, False))
    found += [(ask + option, True) for option in _options(rights.mac, 1)]
    found += [(tell + target + option, True)
              for target in targets for option in _options(rights.mac, 2)]
    return found + [(ask, False), (tell, False)]


def _options(mac, kind):
    """Return matches for no option at all, and for the MAC's alone."""
    digits = mac.replace(":", "")
    own = [_half(32, 4), _half(kind << 8 | 1, 64), _half(int(digits[:4], 16), 66),
           _word(int(digits[4:], 16), _ALL, 68)]
    return [[_half(24, 4)], own]


def _hidden():
    """Return what may come behind an extension header, where ND could hide."""
    # A report to a multicast listener has one, of 8 bytes.
    behind = [_byte(0, 6), _byte(58, 40), _byte(0, 41)]
    found = [(behind + [_byte(kind, 48)], True) for kind in _LISTENING]
    found += [([_byte(header, 6)], False) for header in _EXTENSIONS]
    fragment = _byte(_FRAGMENT6, 6)
    return found + [([fragment, _byte(inner, 40)], False)
                    for inner in _EXTENSIONS + (58, _FRAGMENT6)]


def _address(network, at):
    value, mask = int(network.network_address), int(network.netmask)
    words = []
    for index in range(4):
        shift = 96 - 32 * index
        if mask >> shift & _ALL:
            words.append(_word(value >> shift & _ALL, mask >> shift & _ALL,
                               at + 4 * index))
    return words


def _byte(value, at):
    return "u8 0x%02x 0xff at %d" % (value, at)


def _half(value, at):
    return "u16 0x%04x 0xffff at %d" % (value, at)


def _word(value, mask, at):
    return "u32 0x%08x 0x%08x at %d" % (value, mask, at)
