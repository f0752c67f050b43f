# SPDX-License-Identifier: Apache-2.0
"""Classes Host_driver and Driver_variant: which of a driver's variants is used."""

from xenapi_driver.sim.failure import Failure, handle_invalid
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.schema import NULL


@message("Host_driver.select")
def select(call: Call, ref: str, variant: str) -> None:
    """Use a variant after the next start; it must be one of this driver's."""
    if not call.db.exists("Driver_variant", variant):
        raise handle_invalid("Driver_variant", variant)
    row = call.db.row("Driver_variant", variant)
    if row["driver"] != ref:
        raise Failure("INVALID_VALUE", "variant", variant)
    if not row["hardware_present"]:
        raise Failure("HOST_DRIVER_NO_HARDWARE", variant)
    call.db.update("Host_driver", ref, selected_variant=variant)


@message("Driver_variant.select")
def select_variant(call: Call, ref: str) -> None:
    """Use this variant of its driver."""
    select(call, call.db.row("Driver_variant", ref)["driver"], ref)


@message("Host_driver.deselect")
def deselect(call: Call, ref: str) -> None:
    """Use the variant that the system chooses."""
    call.db.update("Host_driver", ref, active_variant=NULL, selected_variant=NULL)


@message("Host_driver.rescan", "host.rescan_drivers")
def rescan(call: Call, host: str) -> None:
    """Look for drivers again; the hardware is as it was."""
    for ref in call.db.find("Host_driver", host=host):
        call.db.touch("Host_driver", ref)
