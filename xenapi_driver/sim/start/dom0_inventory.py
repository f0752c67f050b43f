# SPDX-License-Identifier: Apache-2.0
"""The file by which programs of a dom0 learn on which host they run."""

from __future__ import annotations

from xenapi_driver.sim.world import World

PATH = "etc/xensource-inventory"


def write(world: World, host: str) -> None:
    """Write the file of a host into its dom0, as the installer does."""
    row = world.db.row("host", host)
    software = row["software_version"]
    lines = {
        "PRODUCT_BRAND": software["product_brand"],
        "PRODUCT_VERSION": software["product_version"],
        "PLATFORM_NAME": software["platform_name"],
        "PLATFORM_VERSION": software["platform_version"],
        "INSTALLATION_UUID": row["uuid"],
        "CONTROL_DOMAIN_UUID": world.db.row("VM", row["control_domain"])["uuid"],
    }
    dom0 = world.dom0_of(host)
    text = "".join(f"{key}='{value}'\n" for key, value in lines.items())
    file = dom0.root / PATH
    file.write_text(text)
    dom0.settle()
