# SPDX-License-Identifier: Apache-2.0
"""Classes crashdump and host_crashdump: what a crashed guest or host left behind."""

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import HANDLERS, Call, message


@message("crashdump.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove a guest's dump and the disk that it is on."""
    vdi = call.db.row("crashdump", ref)["VDI"]
    if call.db.exists("VDI", vdi):
        HANDLERS["VDI.destroy"].function(call, vdi)
    call.db.destroy("crashdump", ref)


@message("host_crashdump.destroy")
def destroy_of_host(call: Call, ref: str) -> None:
    """Remove a host's dump."""
    call.db.destroy("host_crashdump", ref)


@message("host_crashdump.upload")
def upload(call: Call, ref: str, url: str, options: dict[str, str]) -> None:
    """Refuse: there is nobody to send it to."""
    raise Failure("SYSTEM_STATUS_RETRIEVAL_FAILED", f"{url} cannot be reached")
