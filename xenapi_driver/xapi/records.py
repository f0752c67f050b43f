# SPDX-License-Identifier: Apache-2.0
"""The classes whose records are followed, so that reading them costs no request."""

from __future__ import annotations

from xenapi_driver.xapi.console import ConsoleRecord
from xenapi_driver.xapi.host import HostRecord
from xenapi_driver.xapi.host_metrics import HostMetricsRecord
from xenapi_driver.xapi.network import NetworkRecord
from xenapi_driver.xapi.pbd import PbdRecord
from xenapi_driver.xapi.pci import PciRecord
from xenapi_driver.xapi.pgpu import PgpuRecord
from xenapi_driver.xapi.pif import PifRecord
from xenapi_driver.xapi.pool import PoolRecord
from xenapi_driver.xapi.sr import SrRecord
from xenapi_driver.xapi.tables import Kind
from xenapi_driver.xapi.task import TaskRecord
from xenapi_driver.xapi.vbd import VbdRecord
from xenapi_driver.xapi.vdi import VdiRecord
from xenapi_driver.xapi.vgpu import VgpuRecord
from xenapi_driver.xapi.vgpu_type import VgpuTypeRecord
from xenapi_driver.xapi.vif import VifRecord
from xenapi_driver.xapi.vm import VmRecord

KINDS: tuple[Kind, ...] = (
    ConsoleRecord,
    HostRecord,
    HostMetricsRecord,
    NetworkRecord,
    PbdRecord,
    PciRecord,
    PgpuRecord,
    PifRecord,
    PoolRecord,
    SrRecord,
    TaskRecord,
    VbdRecord,
    VdiRecord,
    VgpuRecord,
    VgpuTypeRecord,
    VifRecord,
    VmRecord,
)
