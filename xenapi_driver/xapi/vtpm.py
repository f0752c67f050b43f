# SPDX-License-Identifier: Apache-2.0
"""XAPI's VTPM: a trusted platform module of a VM's own; it goes with the VM."""

from __future__ import annotations

from xenapi_driver.xapi.client import Client


def create(session: Client, vm_ref: str) -> str:
    """Give a halted VM a TPM 2.0 that knows nothing yet; return its reference.

    :raises VmBadPowerState: the VM is not halted
    """
    # Not unique to this VM: a copy of the VM that an operator makes keeps it.
    return str(session.call("VTPM.create", vm_ref, False))
