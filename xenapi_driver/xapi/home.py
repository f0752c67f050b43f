# SPDX-License-Identifier: Apache-2.0
"""Where servers live: one host, the SR of their disks, the bridge of their ports."""

from __future__ import annotations

from dataclasses import dataclass, field

from xenapi_driver.xapi import errors, host, network, pbd, sr
from xenapi_driver.xapi.session import Session

# SR types whose disks are plain VHD files below the SR's mount point.
FILE_BASED = ("ext", "nfs", "file", "smb", "xfs", "cephfs", "glusterfs")


class SrNotFound(errors.Advised):
    """No SR that is plugged into our host is what ``sr_matching_filter`` says.

    :param first: what to do rather than to change the option
    """

    def __init__(self, seen: str, first: str = "") -> None:
        super().__init__(seen, first)
        self._seen = seen
        self._first = first

    @property
    def seen(self) -> str:
        return self._seen

    @property
    def remedy(self) -> str:
        other = (
            "set sr_matching_filter to default-sr:true or to "
            "other-config:<key>=<value> of an SR that is plugged on this host"
        )
        return f"{self._first}, or {other}" if self._first else other


@dataclass(frozen=True)
class Home:
    """What every operation needs to know of the place it works in.

    It names things by what they keep for life: references change when the host
    joins a pool.

    :ivar sr_path: the SR's directory in dom0, or None where disks are not files
    :ivar bridge: the integration bridge, or None where none is configured
    """

    session: Session = field(repr=False)
    sr_uuid: str
    sr_path: str | None
    bridge: str | None

    @property
    def host(self) -> host.HostRecord:
        """Our host."""
        return self.session.host

    @property
    def sr(self) -> sr.SrRecord:
        """The SR of the servers' disks.

        :raises SrNotFound: it was removed
        """
        record = self.session.records[sr.SrRecord].by_uuid(self.sr_uuid)
        if record is None:
            raise SrNotFound(f"SR {self.sr_uuid} is no longer there")
        return record

    @property
    def integration_network(self) -> str | None:
        """Reference of the network on the integration bridge, None without one."""
        return self.bridge and integration_network(self.session, self.bridge)


def find_sr(session: Session, matching: str) -> sr.SrRecord:
    """Return the SR that ``matching`` names and our host can reach.

    :param matching: ``default-sr:true`` or ``other-config:<key>=<value>``
    :raises SrNotFound: malformed, or nothing matches, or nothing that is plugged
    """
    criterion, _, pattern = matching.partition(":")
    key, _, value = pattern.partition("=")
    if criterion == "default-sr" and pattern == "true":
        ref = session.pool.default_sr
        # It may name an SR that is gone.
        default = session.records[sr.SrRecord].get(ref or "")
        if default is None:
            raise SrNotFound(
                f"The pool has no default SR, which sr_matching_filter = {matching} "
                "names",
                first="choose one with xe pool-param-set default-SR=",
            )
        found = [default]
    elif criterion == "other-config" and key and value:
        found = [s for s in sr.all(session) if s.other_config.get(key) == value]
    else:
        raise SrNotFound(f"sr_matching_filter = {matching} cannot be understood")
    for record in found:
        if pbd.of_host_sr(session, session.host_ref, record.ref) is not None:
            return record
    if len(found) == 1:
        raise SrNotFound(
            f"SR {found[0].uuid} ({found[0].name_label}), which sr_matching_filter = "
            f"{matching} names, is not plugged on this host",
            first="plug it with xe pbd-plug",
        )
    raise SrNotFound(f"No SR on this host matches sr_matching_filter = {matching}")


def sr_path(session: Session, record: sr.SrRecord, base_path: str) -> str | None:
    """Return the directory of the SR's disks in dom0, None where it has none."""
    plugged = pbd.of_host_sr(session, session.host_ref, record.ref)
    if plugged is not None and plugged.device_config.get("path"):
        return plugged.device_config["path"]
    if record.type in FILE_BASED:
        return f"{base_path.rstrip('/')}/{record.uuid}"
    return None


def integration_network(session: Session, bridge: str) -> str:
    """Return the network on ``bridge``, introducing the bridge when XAPI lacks it.

    The bridge is Neutron's: XAPI only plugs VIFs into it (``managed`` false).
    """
    found = network.find_by_bridge(session, bridge)
    if found is not None:
        return found.ref
    record = {
        "name_label": f"{bridge} (OpenStack integration bridge)",
        "name_description": "Ports of OpenStack servers; wired by Neutron",
        "bridge": bridge,
        "managed": False,
        "MTU": 1500,
        "other_config": {},
        "tags": [],
    }
    try:
        return network.create(session, record)
    except errors.XapiFailure:
        # Another member's service may have been quicker (BRIDGE_NAME_EXISTS).
        found = network.find_by_bridge(session, bridge)
        if found is None:
            raise
        return found.ref
