# SPDX-License-Identifier: Apache-2.0
"""Steps that give a VM what is neither disk nor network interface."""

from __future__ import annotations

from xenapi_driver import flow
from xenapi_driver.steps.build import Built
from xenapi_driver.xapi import vtpm
from xenapi_driver.xapi.home import Home


class CreateVtpm(flow.Step[Built]):
    """Give the VM a virtual TPM, which goes with it."""

    name = "create-vtpm"

    def __init__(self, home: Home) -> None:
        self._home = home

    def run(self, state: Built) -> None:
        # The step before has made the VM.
        vtpm.create(self._home.session, state.vm or "")
