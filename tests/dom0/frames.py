# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames, legal and forged, and whether an isolated VIF may send them.

``TABLE`` is what the isolation of a VIF is judged by; each frame carries its own name,
by which a receiver knows it whatever a switch did to it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
NONE = "00:00:00:00:00:00"
ROUTER = "02:00:00:00:00:01"  # a third one, whom a forger likes to be
ROUTERS = "33:33:00:00:00:02"
ARP, IPV4, IPV6, VLAN, RARP = 0x0806, 0x0800, 0x86DD, 0x8100, 0x8035
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(dst: str, src: str, kind: int, payload: bytes) -> bytes:
    return mac(dst) + mac(src) + struct.pack("!H", kind) + payload


def arp(op: int, sha: str, spa: str, tha: str, tpa: str) -> bytes:
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, op)
    return head + mac(sha) + ip(spa) + mac(tha) + ip(tpa)


def ipv4(src: str, dst: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    """Return a packet; ``fragment`` is the field of flags and offset."""
    head = struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0
    )
    head += ip(src) + ip(dst)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(src: str, dst: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255)
    return head + ip(src) + ip(dst) + payload


def udp(sport: int, dport: int, data: bytes = b"data") -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def tcp_syn(sport: int, dport: int) -> bytes:
    return struct.pack("!HHIIHHHH", sport, dport, 1, 0, 0x5002, 1000, 0, 0)


def icmp6(src: str, dst: str, kind: int, body: bytes) -> bytes:
    """Return a whole ICMPv6 packet, with its checksum."""
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = ip(src) + ip(dst) + struct.pack("!II", len(message), ICMP6)
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    return ipv6(src, dst, ICMP6, message)


def solicitation(
    src: str, dst: str, target: str, source_mac: str = "", more: bytes = b""
) -> bytes:
    option = b"\x01\x01" + mac(source_mac) if source_mac else b""
    return icmp6(src, dst, 135, bytes(4) + ip(target) + option + more)


def advertisement(
    src: str, dst: str, target: str, target_mac: str = "", more: bytes = b""
) -> bytes:
    option = b"\x02\x01" + mac(target_mac) if target_mac else b""
    return icmp6(src, dst, 136, b"\x60\0\0\0" + ip(target) + option + more)


def before(next_header: int, protocol: int, packet: bytes) -> bytes:
    """Return an IPv6 packet with an empty header of ``protocol`` put before its own."""
    extension = bytes([next_header, 0]) + b"\x01\x04\0\0\0\0"
    length = struct.pack("!H", len(packet) - 40 + len(extension))
    head = packet[:4] + length + bytes([protocol]) + packet[7:40]
    return head + extension + packet[40:]


def fragment6(packet: bytes, offset_and_flag: int) -> bytes:
    """Return an IPv6 packet as if it were a fragment of a greater one."""
    header = struct.pack("!BBHI", packet[6], 0, offset_and_flag, 7)
    length = struct.pack("!H", len(packet) - 40 + len(header))
    return packet[:4] + length + bytes([44]) + packet[7:40] + header + packet[40:]


@dataclasses.dataclass(frozen=True)
class Guest:
    """One guest's interface: what it is called, and what it may call itself."""

    mac: str
    ipv4: str
    ipv6: str

    @property
    def link_local(self) -> str:
        # Worked out anew, not by the code under test.
        first, *rest = mac(self.mac)
        text = bytes([first ^ 2, *rest[:2]]) + b"\xff\xfe" + bytes(rest[2:])
        return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + text)


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame, and whether an isolated VIF may send it."""

    name: str
    passes: bool
    data: bytes

    @property
    def label(self) -> bytes:
        return b"<" + self.name.encode() + b">"

    def came_as(self, data: bytes) -> bool:
        """Say whether what was received is this frame.

        A bridge with a packet filter cuts off what lies behind the packet; a tag may
        be taken off by the receiver.
        """
        return self.label in data or data.startswith(self.data)


def table(me: Guest, peer: Guest) -> list[Frame]:
    """Return what ``me`` sends, whose addresses ``peer`` would like to keep."""
    found = []

    def add(passes: bool, name: str, kind: int, packet: bytes, **where: str) -> None:
        dst = where.get("dst", peer.mac)
        data = ethernet(dst, where.get("src", me.mac), kind, packet)
        found.append(Frame(name, passes, data))

    for part in (_link, _arp, _ipv4, _dhcp, _ipv6, _neighbours, _hidden):
        part(add, me, peer)
    return found


def _link(add, me: Guest, peer: Guest) -> None:
    packet = ipv4(me.ipv4, peer.ipv4, UDP, udp(1000, 2000))
    add(True, "own addresses", IPV4, packet)
    add(False, "forged source MAC", IPV4, packet, src=ROUTER)
    add(False, "source MAC nobody has", IPV4, packet, src="02:00:00:00:00:99")
    tag = struct.pack("!HH", 10, IPV4)
    add(False, "VLAN tag", VLAN, tag + packet)
    add(False, "priority tag", VLAN, struct.pack("!HH", 0xE000, IPV4) + packet)
    add(False, "service tag", 0x88A8, tag + packet)
    for name, kind in (("LLDP", 0x88CC), ("EAPOL", 0x888E), ("MPLS", 0x8847),
                       ("PPPoE", 0x8863), ("experimental", 0x88B5)):
        add(False, name, kind, b"\0" * 40)
    add(False, "spanning tree", 0x26, b"\x42\x42\x03" + bytes(35),
        dst="01:80:c2:00:00:00")
    add(False, "reverse ARP", RARP, arp(3, me.mac, "0.0.0.0", me.mac, "0.0.0.0"),
        dst=BROADCAST)


def _arp(add, me: Guest, peer: Guest) -> None:
    ask = {"dst": BROADCAST}
    add(True, "ARP request", ARP, arp(1, me.mac, me.ipv4, NONE, peer.ipv4), **ask)
    add(True, "ARP reply", ARP, arp(2, me.mac, me.ipv4, peer.mac, peer.ipv4))
    add(True, "ARP probe", ARP, arp(1, me.mac, "0.0.0.0", NONE, me.ipv4), **ask)
    add(True, "gratuitous ARP", ARP, arp(1, me.mac, me.ipv4, NONE, me.ipv4), **ask)
    add(False, "ARP request of another's address", ARP,
        arp(1, me.mac, peer.ipv4, NONE, "10.0.0.1"), **ask)
    add(False, "gratuitous ARP for the gateway", ARP,
        arp(2, me.mac, "10.0.0.1", NONE, "10.0.0.1"), **ask)
    add(False, "ARP reply for the gateway", ARP,
        arp(2, me.mac, "10.0.0.1", peer.mac, peer.ipv4))
    add(False, "ARP reply of nobody", ARP,
        arp(2, me.mac, "0.0.0.0", peer.mac, peer.ipv4))
    add(False, "ARP with another's hardware address", ARP,
        arp(1, peer.mac, me.ipv4, NONE, "10.0.0.1"), **ask)
    add(False, "ARP probe with another's hardware address", ARP,
        arp(1, peer.mac, "0.0.0.0", NONE, me.ipv4), **ask)
    add(False, "ARP in a frame of another", ARP,
        arp(1, me.mac, me.ipv4, NONE, peer.ipv4), src=ROUTER, **ask)
    add(False, "ARP of an odd operation", ARP,
        arp(9, me.mac, me.ipv4, NONE, peer.ipv4), **ask)


def _ipv4(add, me: Guest, peer: Guest) -> None:
    packet = udp(1000, 2000)
    add(True, "TCP", IPV4, ipv4(me.ipv4, peer.ipv4, TCP, tcp_syn(1000, 22)))
    add(True, "ICMP", IPV4, ipv4(me.ipv4, peer.ipv4, ICMP, b"\x08\0\xf7\xff\0\0\0\0"))
    add(True, "first fragment", IPV4, ipv4(me.ipv4, peer.ipv4, TCP, packet, 0x2000))
    add(True, "later fragment", IPV4, ipv4(me.ipv4, peer.ipv4, UDP, packet, 0x0010))
    add(False, "forged IPv4", IPV4, ipv4(peer.ipv4, "10.0.0.1", UDP, packet))
    add(False, "IPv4 of nobody", IPV4, ipv4("0.0.0.0", peer.ipv4, UDP, packet))
    add(False, "forged first fragment", IPV4,
        ipv4(peer.ipv4, "10.0.0.1", UDP, packet, 0x2000))
    add(False, "forged later fragment", IPV4,
        ipv4(peer.ipv4, "10.0.0.1", UDP, packet, 0x0010))
    add(False, "IPv4 broadcast", IPV4,
        ipv4(me.ipv4, "255.255.255.255", UDP, packet), dst=BROADCAST)
    add(False, "broadcast on the subnet", IPV4,
        ipv4(me.ipv4, "10.0.0.255", UDP, packet), dst=BROADCAST)
    add(False, "IPv4 multicast", IPV4,
        ipv4(me.ipv4, "224.0.0.251", UDP, packet), dst="01:00:5e:00:00:fb")
    add(False, "multicast in a frame to one", IPV4,
        ipv4(me.ipv4, "224.0.0.251", UDP, packet))
    add(False, "one's address in a multicast frame", IPV4,
        ipv4(me.ipv4, peer.ipv4, UDP, packet), dst="01:00:5e:00:00:fb")
    add(False, "IPv4 of class E", IPV4, ipv4(me.ipv4, "240.0.0.1", UDP, packet))


def _dhcp(add, me: Guest, peer: Guest) -> None:
    every = "255.255.255.255"
    ask, answer = udp(68, 67), udp(67, 68)
    add(True, "DHCP discover", IPV4, ipv4("0.0.0.0", every, UDP, ask), dst=BROADCAST)
    add(True, "DHCP rebind", IPV4, ipv4(me.ipv4, every, UDP, ask), dst=BROADCAST)
    add(True, "DHCP renewal", IPV4, ipv4(me.ipv4, "10.0.0.1", UDP, ask))
    add(False, "DHCP discover of another MAC", IPV4,
        ipv4("0.0.0.0", every, UDP, ask), dst=BROADCAST, src=ROUTER)
    add(False, "DHCP offer", IPV4, ipv4(me.ipv4, peer.ipv4, UDP, answer))
    add(False, "DHCP offer to all", IPV4,
        ipv4(me.ipv4, every, UDP, answer), dst=BROADCAST)
    add(False, "DHCP offer of nobody", IPV4,
        ipv4("0.0.0.0", every, UDP, answer), dst=BROADCAST)
    add(False, "DHCP offer from another port", IPV4,
        ipv4(me.ipv4, peer.ipv4, UDP, udp(1067, 68)))
    add(False, "DHCP relay", IPV4, ipv4(me.ipv4, "10.0.0.1", UDP, udp(67, 67)))
    servers, dst = "ff02::1:2", {"dst": "33:33:00:01:00:02"}
    add(True, "DHCPv6 solicit", IPV6,
        ipv6(me.link_local, servers, UDP, udp(546, 547)), **dst)
    add(False, "DHCPv6 solicit of another", IPV6,
        ipv6(peer.link_local, servers, UDP, udp(546, 547)), **dst)
    add(False, "DHCPv6 answer", IPV6,
        ipv6(me.link_local, peer.link_local, UDP, udp(547, 546)))
    add(False, "DHCPv6 answer from another port", IPV6,
        ipv6(me.ipv6, peer.link_local, UDP, udp(1547, 546)))


def _ipv6(add, me: Guest, peer: Guest) -> None:
    packet = udp(1000, 2000)
    routers = {"dst": ROUTERS}
    add(True, "own IPv6", IPV6, ipv6(me.ipv6, peer.ipv6, UDP, packet))
    add(True, "own link-local", IPV6, ipv6(me.link_local, peer.link_local, UDP, packet))
    add(True, "TCP over IPv6", IPV6,
        ipv6(me.ipv6, peer.ipv6, TCP, tcp_syn(1000, 22)))
    add(True, "echo over IPv6", IPV6, icmp6(me.ipv6, peer.ipv6, 128, bytes(8)))
    add(True, "router solicitation", IPV6,
        icmp6(me.link_local, "ff02::2", 133, bytes(4)), **routers)
    add(True, "router solicitation of nobody yet", IPV6,
        icmp6("::", "ff02::2", 133, bytes(4)), **routers)
    report = icmp6("::", "ff02::16", 143, bytes(4))
    add(True, "listener report", IPV6, before(ICMP6, 0, report),
        dst="33:33:00:00:00:16")
    add(False, "forged IPv6", IPV6, ipv6(peer.ipv6, "2001:db8::1", UDP, packet))
    add(False, "forged link-local", IPV6,
        ipv6(peer.link_local, me.link_local, UDP, packet))
    add(False, "forged echo", IPV6, icmp6(peer.ipv6, "2001:db8::1", 128, bytes(8)))
    add(False, "IPv6 of nobody", IPV6, ipv6("::", peer.ipv6, UDP, packet))
    add(False, "IPv6 in a frame of another", IPV6,
        ipv6(me.ipv6, peer.ipv6, UDP, packet), src=ROUTER)
    nodes = {"dst": "33:33:00:00:00:01"}
    for source in (me.link_local, me.ipv6):
        add(False, f"router advertisement from {source}", IPV6,
            icmp6(source, "ff02::1", 134, bytes(12)), **nodes)
        add(False, f"redirect from {source}", IPV6,
            icmp6(source, peer.ipv6, 137, bytes(4) + ip(me.ipv6) + ip(me.ipv6)))
    add(False, "router advertisement to one", IPV6,
        icmp6(me.link_local, peer.link_local, 134, bytes(12)))
    add(False, "listener query", IPV6,
        icmp6(me.link_local, "ff02::1", 130, bytes(20)), **nodes)
    add(False, "router renumbering", IPV6,
        icmp6(me.link_local, "ff02::1", 138, bytes(12)), **nodes)


def _neighbours(add, me: Guest, peer: Guest) -> None:
    to = {"dst": "33:33:ff:00:00:06"}
    asked = "ff02::1:ff00:6"
    for source in (me.ipv6, me.link_local):
        add(True, f"asks from {source}", IPV6,
            solicitation(source, asked, peer.ipv6, me.mac), **to)
        add(True, f"asks from {source} without its MAC", IPV6,
            solicitation(source, peer.ipv6, peer.ipv6))
        add(True, f"tells of {source}", IPV6,
            advertisement(source, peer.ipv6, source, me.mac))
        add(True, f"tells of {source} without its MAC", IPV6,
            advertisement(source, peer.ipv6, source))
    add(True, "tells of its other address", IPV6,
        advertisement(me.link_local, peer.ipv6, me.ipv6, me.mac))
    add(True, "asks whether its address is taken", IPV6,
        solicitation("::", "ff02::1:ff00:5", me.ipv6), dst="33:33:ff:00:00:05")
    nonce = b"\x0e\x01nonce!"  # RFC 7527; Linux does so
    add(True, "asks so with a nonce", IPV6,
        solicitation("::", "ff02::1:ff00:5", me.ipv6, more=nonce),
        dst="33:33:ff:00:00:05")
    add(False, "asks whether another's is taken", IPV6,
        solicitation("::", asked, peer.ipv6), **to)
    add(False, "asks with another's MAC", IPV6,
        solicitation(me.ipv6, asked, peer.ipv6, "02:00:00:00:00:99"), **to)
    add(False, "asks from another's address", IPV6,
        solicitation(peer.ipv6, asked, "2001:db8::1", me.mac), **to)
    add(False, "tells of another's address", IPV6,
        advertisement(me.ipv6, "ff02::1", peer.ipv6, me.mac))
    add(False, "tells of another's address without a MAC", IPV6,
        advertisement(me.ipv6, "ff02::1", peer.ipv6))
    add(False, "tells of the gateway from its link-local", IPV6,
        advertisement(me.link_local, "ff02::1", "2001:db8::1", me.mac))
    add(False, "tells of its own with another's MAC", IPV6,
        advertisement(me.ipv6, "ff02::1", me.ipv6, "02:00:00:00:00:99"))
    second = b"\x02\x01" + mac("02:00:00:00:00:99")
    add(False, "tells of its own with two MACs", IPV6,
        advertisement(me.ipv6, "ff02::1", me.ipv6, me.mac, second))


def _hidden(add, me: Guest, peer: Guest) -> None:
    """Add what hides behind extension headers and in fragments (RFC 7113, RFC 6980)."""
    router = icmp6(me.link_local, "ff02::1", 134, bytes(12))
    lie = advertisement(me.ipv6, peer.ipv6, peer.ipv6, me.mac)
    for name, header in (("hop-by-hop options", 0), ("destination options", 60)):
        add(False, f"router advertisement behind {name}", IPV6,
            before(ICMP6, header, router))
        add(False, f"forged advertisement behind {name}", IPV6,
            before(ICMP6, header, lie))
    for name, offset in (("a lone fragment", 0), ("a first fragment", 1)):
        add(False, f"router advertisement in {name}", IPV6, fragment6(router, offset))
        add(False, f"forged advertisement in {name}", IPV6, fragment6(lie, offset))
    add(False, "later fragment from the link-local", IPV6,
        fragment6(router, 0x0100))
    data = ipv6(me.ipv6, peer.ipv6, UDP, udp(1000, 2000))
    add(True, "first fragment over IPv6", IPV6, fragment6(data, 1))
    add(True, "later fragment over IPv6", IPV6, fragment6(data, 0x0100))
    forged = ipv6(peer.ipv6, "2001:db8::1", UDP, udp(1000, 2000))
    add(False, "forged fragment over IPv6", IPV6, fragment6(forged, 0x0100))
