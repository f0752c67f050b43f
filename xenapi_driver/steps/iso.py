# SPDX-License-Identifier: Apache-2.0
"""Steps for a server that boots from an ISO image: a CD, and settings of iPXE."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from oslo_log import log as logging

from xenapi_driver import flow
from xenapi_driver.images import isos
from xenapi_driver.images.repeating import until_moved
from xenapi_driver.images.source import ImageSource
from xenapi_driver.steps.build import (
    CD_DEVICE,
    DISK_TYPE_KEY,
    INSTANCE_KEY,
    Attached,
    Built,
    Port,
    Server,
)
from xenapi_driver.xapi import vdi
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class IpxeRules:
    """What an operator says of servers that boot iPXE.

    :ivar network: label of the network that they boot from
    :ivar menu_url: where their boot menu is
    :ivar maker: program in dom0 that makes a CD
    """

    network: str | None = None
    menu_url: str | None = None
    maker: str | None = None


class FetchCd(flow.Step[Built]):
    """Put the image into the host's ISO library, for this server alone.

    It is never cached. Undo removes it.
    """

    name = "boot-cd"

    def __init__(
        self,
        home: Home,
        server: Server,
        open_image: Callable[[], ImageSource],
        attempts: int = 1,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self._home = home
        self._server = server
        self._open_image = open_image
        self._attempts = attempts
        self._progress = progress

    def run(self, state: Built) -> None:
        isos.library(self._home.session)  # before anybody is asked for the image
        keys = {INSTANCE_KEY: self._server.uuid, DISK_TYPE_KEY: "iso"}
        source = self._open_image()
        name, told = self._server.name, self._progress
        cd = until_moved(
            self._attempts,
            lambda: isos.write(self._home, source, name, keys, told),
        )
        state.disks[CD_DEVICE] = Attached(
            cd.ref, CD_DEVICE, bootable=True, mode="RO", type="CD"
        )

    def undo(self, state: Built) -> None:
        cd = state.disks.pop(CD_DEVICE, None)
        if cd is not None and cd.vdi is not None:
            vdi.destroy(self._home.session, cd.vdi)


class InjectIpxe(flow.Step[Built]):
    """Write addresses and the boot menu's URL into the CD, which goes with it."""

    name = "ipxe-settings"

    def __init__(self, home: Home, server: Server, rules: IpxeRules) -> None:
        self._home = home
        self._server = server
        self._rules = rules

    def run(self, state: Built) -> None:
        settings = ipxe_of(self._server.network.ports, self._rules)
        if missing := settings.missing():
            LOG.warning(
                "Server %(server)s boots iPXE without %(what)s: to be entered at its "
                "console.",
                {"server": self._server.name, "what": " and ".join(missing)},
            )
        cd = vdi.get(self._home.session, state.disks[CD_DEVICE].vdi or "")
        isos.inject(self._home, cd, self._server.image_id, settings)


def ipxe_of(ports: Sequence[Port], rules: IpxeRules) -> isos.Ipxe:
    """Return the settings of a server with these ports.

    They are those of iPXE's net0, which is the server's first interface: when that is
    on another network than servers boot from, there are none.
    """
    found = isos.Ipxe(menu_url=rules.menu_url, maker=rules.maker)
    first = ports[0] if ports else None
    if first is None or first.ipv4 is None or first.network != rules.network:
        return found
    return dataclasses.replace(found, **dataclasses.asdict(first.ipv4))
