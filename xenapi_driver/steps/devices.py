# SPDX-License-Identifier: Apache-2.0
"""Steps that give a VM what is neither disk nor network interface."""

from __future__ import annotations

from xenapi_driver import exceptions, flow
from xenapi_driver.steps.build import Built, Server
from xenapi_driver.xapi import vgpu, vtpm
from xenapi_driver.xapi.home import Home

# In VGPU.other_config: whose it is; what clean-up tools read.
VGPU_INSTANCE_KEY = "nova-instance-uuid"


class CreateVgpu(flow.Step[Built]):
    """Give the VM a share of a graphics card, which goes with it."""

    name = "create-vgpu"

    def __init__(self, home: Home, server: Server) -> None:
        self._home = home
        self._server = server

    def run(self, state: Built) -> None:
        session, model = self._home.session, self._server.guest.vgpu
        found = vgpu.free_group(session.records, session.host_ref, model or "")
        if found is None:
            raise exceptions.UnfitHost(
                f"No graphics card of host {self._home.host.hostname} has room for "
                f"one more {model}."
            )
        group, kind = found
        keys = {VGPU_INSTANCE_KEY: self._server.uuid}
        vgpu.create(session, state.vm or "", group, kind, keys)


class CreateVtpm(flow.Step[Built]):
    """Give the VM a virtual TPM, which goes with it."""

    name = "create-vtpm"

    def __init__(self, home: Home) -> None:
        self._home = home

    def run(self, state: Built) -> None:
        # The step before has made the VM.
        vtpm.create(self._home.session, state.vm or "")
