# SPDX-License-Identifier: Apache-2.0
"""The pool that a host belongs to; a single host is a pool of one."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.client import Client, or_none
from xenapi_driver.xapi.tables import Snapshot


@dataclasses.dataclass(frozen=True, slots=True)
class PoolRecord:
    """What we read of one ``pool.get_record``.

    :ivar default_sr: may be None, or name an SR that is gone
    :ivar cpu_info: what the processors of all members have in common; guests get
        ``features_hvm_host`` of it
    :ivar restrictions: ``restrict_<feature>``, ``true`` where the licence lacks it
    """

    XAPI_CLASS: ClassVar[str] = "pool"
    OWNER: ClassVar[str] = ""

    ref: str
    uuid: str
    name_label: str
    master: str
    default_sr: str | None
    cpu_info: Mapping[str, str]
    other_config: Mapping[str, str]
    restrictions: Mapping[str, str]

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> PoolRecord:
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            name_label=rec["name_label"],
            master=rec["master"],
            default_sr=or_none(rec["default_SR"]),
            cpu_info=rec["cpu_info"],
            other_config=rec["other_config"],
            restrictions=rec["restrictions"],
        )


def only(snapshot: Snapshot) -> PoolRecord:
    """Return the pool, which every host has.

    :raises BadAnswer: there is none
    """
    for record in snapshot[PoolRecord].values():
        return record
    raise errors.BadAnswer("The host", "it has no pool")


def secure_boot_ready(session: Client) -> bool:
    """Tell whether UEFI guests find the certificates for Secure Boot.

    Hosts before xapi 24.17 cannot tell; then the answer is no.
    """
    pool = only(session.records)
    try:
        said = session.call("pool.get_guest_secureboot_readiness", pool.ref)
    except errors.MethodUnknown:
        return False
    # The other good one is ready_no_dbx: nothing is revoked.
    return str(said).startswith("ready")


def member_by_address(session: Client, addresses: frozenset[str]) -> str:
    """Return the reference of the host that has one of the IP addresses.

    :param addresses: in their shortest form
    :raises NotAMember: none or several hosts have
    """
    found = {
        rec["host"]
        for rec in session.call("PIF.get_all_records").values()
        if any(_usual(ip) in addresses for ip in (rec["IP"], *rec["IPv6"]))
    }
    if len(found) != 1:
        raise errors.NotAMember(addresses)
    return str(found.pop())


def _usual(address: str) -> str:
    """Return an address, with or without prefix length, in its shortest form."""
    try:
        return str(ipaddress.ip_interface(address).ip)
    except ValueError:
        return address
