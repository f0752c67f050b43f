# SPDX-License-Identifier: Apache-2.0
"""XAPI's host: a machine that runs VMs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi.client import Client, existing


@dataclasses.dataclass(frozen=True, slots=True)
class HostRecord:
    """What we read of one ``host.get_record``: a snapshot, not a live object.

    :ivar cpu_info: XAPI's map: cpu_count, socket_count, vendor, features_hvm ...
    :ivar software_version: product_brand, product_version, xapi ...; what is
        unknown is missing
    :ivar memory_overhead: bytes that Xen keeps; dom0 is a VM of its own
    :ivar numa_affinity_policy: any, best_effort or default_policy; "" where the host
        does not tell
    :ivar control_domain: reference of dom0's VM; "" where the host does not tell
    """

    XAPI_CLASS: ClassVar[str] = "host"
    OWNER: ClassVar[str] = ""

    ref: str
    uuid: str
    name_label: str
    hostname: str
    address: str
    enabled: bool
    cpu_info: Mapping[str, str]
    software_version: Mapping[str, str]
    capabilities: tuple[str, ...]
    memory_overhead: int
    control_domain: str
    metrics: str
    other_config: Mapping[str, str]
    numa_affinity_policy: str

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> HostRecord:
        # XML-RPC carries XAPI's int as a decimal string: convert here, once.
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            name_label=rec["name_label"],
            hostname=rec["hostname"],
            address=rec["address"],
            enabled=rec["enabled"],
            cpu_info=rec["cpu_info"],
            software_version=rec["software_version"],
            capabilities=tuple(rec["capabilities"]),
            memory_overhead=int(rec["memory_overhead"]),
            control_domain=rec.get("control_domain", ""),  # since XenServer 7.1
            metrics=rec["metrics"],
            other_config=rec["other_config"],
            numa_affinity_policy=rec.get("numa_affinity_policy", ""),
        )


def get(session: Client, ref: str) -> HostRecord:
    """Return the host.

    :raises HandleInvalid: it is gone
    """
    return existing(session, HostRecord, ref)


def free_memory(session: Client, ref: str) -> int:
    """Return what new VMs can have of the host's memory, in bytes.

    Running VMs count with their overhead. host_metrics.memory_free is no
    longer kept by today's hosts.
    """
    return int(session.call("host.compute_free_memory", ref))


def call_plugin(
    session: Client, ref: str, plugin: str, fn: str, args: Mapping[str, str]
) -> str:
    """Run a short dom0 plugin on the host and return what it printed."""
    return str(session.call("host.call_plugin", ref, plugin, fn, args))


def call_plugin_task(
    session: Client,
    ref: str,
    plugin: str,
    fn: str,
    args: Mapping[str, str],
    *,
    progress: Callable[[float], None] | None = None,
) -> str:
    """Run a dom0 plugin that may take hours, such as a transfer.

    :param args: with a label of :meth:`Session.label` as ``call``, the plugin finds
        the task that is made of this
    """
    method, label = "Async.host.call_plugin", args.get("call", "")
    return str(
        session.task(method, ref, plugin, fn, args, progress=progress, label=label)
    )
