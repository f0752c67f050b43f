# SPDX-License-Identifier: Apache-2.0
"""Whose VIF is to be isolated, and what it may then call itself.

All of it is worked out from XAPI's records, by functions that ask nobody. A VIF is
isolated where ``other_config:xenapi-isolation`` says so; the VIF's own key counts
before its VM's, and that before its network's. Values:

``on``
    The VIF may use its MAC, the link-local IPv6 address made of it, and the addresses
    in its ``ipv4_allowed``, ``ipv6_allowed`` and
    ``other_config:xenapi-isolation-addresses`` (separated by commas or blanks; networks
    such as 10.0.0.0/28 too).
``vm-data``
    As ``on``; where these three are empty, the addresses of the VM's
    ``vm-data/networking/<MAC without colons>`` count. The guest can write that key, so
    this only keeps honest guests apart.
``off`` or no key
    Not isolated.

Any other value counts as ``on``: a mistake must not open the port. A VIF without any
address gets DHCP and link-local IPv6 only. A VIF that XAPI itself locks or disables is
left to XAPI.
"""
import collections
import ipaddress
import json
import re

KEY = "xenapi-isolation"
ADDRESSES_KEY = "xenapi-isolation-addresses"
NETWORKING = "vm-data/networking/"
MAX_ADDRESSES = 64  # of one VIF; each costs several rules
_OFF = ("", "off", "false", "no", "0")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:/[0-9]{1,3})?\Z")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")

# ipv4, ipv6: tuples of ipaddress networks, a single address as /32 or /128.
Rights = collections.namedtuple("Rights", "mac ipv4 ipv6")
# rights is None where nothing is to be done; why is a text for people.
Verdict = collections.namedtuple("Verdict", "rights why")


def verdict(vif, vm, network):
    """Return the Verdict on a VIF.

    :param vif: XAPI's record of it; ``vm`` and ``network`` are those of its VM and
        network
    """
    mode = vif["locking_mode"]
    if mode == "network_default":
        mode = network["default_locking_mode"]
    if mode in ("locked", "disabled"):
        return Verdict(None, "XAPI has the VIF %s" % mode)
    wish = _wish(vif, vm, network)
    if wish in _OFF:
        return Verdict(None, "nobody asks for it")
    mac = vif["MAC"].lower()
    if _MAC.match(mac) is None:
        # XAPI checks it; without one, nothing that we could let through is known.
        mac = "00:00:00:00:00:00"
    addresses = _given(vif)
    source = "the VIF's own addresses"
    if wish == "vm-data" and not addresses:
        addresses = _told_to_guest(vm, mac)
        source = NETWORKING
    return Verdict(rights(mac, addresses), source)


def rights(mac, addresses):
    """Return the Rights of a MAC and texts of addresses; what is unusable is left out.

    The link-local address of the MAC is always among them.
    """
    found = {4: [], 6: [ipaddress.ip_network(link_local(mac))]}
    for text in addresses[:MAX_ADDRESSES]:
        network = _network(text)
        if network is not None and network not in found[network.version]:
            found[network.version].append(network)
    return Rights(mac, tuple(found[4]), tuple(found[6]))


def link_local(mac):
    """Return the link-local address that a guest makes of its MAC.

    RFC 4291, appendix A: the universal/local bit is turned, FFFE goes into the middle.
    """
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 0x02
    return str(
        ipaddress.IPv6Address(
            b"\xfe\x80" + bytes(6) + bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])
        )
    )


def _wish(*records):
    for record in records:
        value = record["other_config"].get(KEY)
        if value is not None:
            return value.strip().lower()
    return "off"


def _given(vif):
    """Return the texts of the addresses that only an administrator can set."""
    more = vif["other_config"].get(ADDRESSES_KEY, "").replace(",", " ").split()
    return vif["ipv4_allowed"] + vif["ipv6_allowed"] + more


def _told_to_guest(vm, mac):
    """Return the texts of the addresses in the VM's networking data for a MAC."""
    wanted = NETWORKING + mac.replace(":", "")
    texts = [text for key, text in sorted(vm["xenstore_data"].items())
             if key.lower() == wanted]
    # The guest may have written this: any shape may come.
    try:
        data = json.loads(texts[0]) if texts else None
    except (ValueError, RecursionError):
        return []
    found = []
    for name in ("ips", "ip6s"):
        entries = data.get(name) if isinstance(data, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            address = entry.get("ip") if isinstance(entry, dict) else None
            # No networks here: the key holds the addresses of one port.
            if isinstance(address, str) and "/" not in address:
                found.append(address)
    return found


def _network(text):
    """Return an address or network that a guest can have, else None."""
    # From Python 3.9 on an IPv6 address may carry a zone, which can hold anything.
    if _ADDRESS.match(text) is None:
        return None
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return None
    first, last = network.network_address, network.broadcast_address
    for address in (first, last):
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            return None
        if address.version == 4 and address in ipaddress.ip_network("240.0.0.0/4"):
            return None
    # What spans all of the above is no address of a guest either.
    return network if network.prefixlen >= 8 else None
