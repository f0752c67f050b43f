# SPDX-License-Identifier: Apache-2.0
"""XAPI's PCI: a device of a host that can be given to a VM."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from xenapi_driver.xapi.client import or_none


@dataclasses.dataclass(frozen=True, slots=True)
class PciRecord:
    """What we read of one ``PCI.get_record``: a snapshot, not a live object.

    Hosts differ in what they tell: what one leaves out is empty here.

    :ivar pci_id: address, as in ``0000:03:00.0``
    :ivar vendor_id: four hexadecimal digits, as device_id
    :ivar driver_name: dom0's driver, such as ``pciback``
    :ivar physical_function: of a virtual function
    :ivar virtual_functions: of a physical function
    """

    XAPI_CLASS: ClassVar[str] = "PCI"
    OWNER: ClassVar[str] = "host"

    ref: str
    uuid: str
    host: str
    pci_id: str
    vendor_id: str
    device_id: str
    driver_name: str
    physical_function: str | None
    virtual_functions: tuple[str, ...]

    @classmethod
    def from_xapi(cls, ref: str, rec: Mapping[str, Any]) -> PciRecord:
        return cls(
            ref=ref,
            uuid=rec["uuid"],
            host=rec["host"],
            pci_id=rec["pci_id"],
            vendor_id=rec.get("vendor_id", ""),
            device_id=rec.get("device_id", ""),
            driver_name=rec.get("driver_name", ""),
            physical_function=or_none(rec.get("physical_function", "")),
            virtual_functions=tuple(rec.get("virtual_functions", ())),
        )
