# SPDX-License-Identifier: Apache-2.0
"""Bring the whole cloud up in a fresh state folder, and down again."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from demo import configuration, messaging, seeding
from demo.databases import Databases
from demo.failure import expect
from demo.host import PROCESS as HOST_PROCESS
from demo.host import Host
from demo.layout import Layout
from demo.processes import Processes
from demo.services import Services

Say = Callable[[str], None]
# In every state folder: without it a folder is somebody's, and is not emptied.
MARK = "made-by-the-xenapi-driver-demo"
# Stopped last, in this order: the others still talk to them while they end.
FOUNDATION = (HOST_PROCESS, "keystone", "mariadb", *messaging.NAMES)


class Cloud:
    """Everything that runs in one state folder."""

    def __init__(self, layout: Layout, backend: str) -> None:
        self.layout = layout
        self.backend = backend
        self.processes = Processes(layout)
        self.services = Services(layout, self.processes)
        self.host = Host(layout, self.processes)

    def up(self, say: Say) -> None:
        """Start everything in a fresh state folder.

        :raises DemoFailure: something did not come up; it names a log
        """
        self.down()
        self._clear()
        configuration.write_all(self.layout)
        seeding.write_keys(self.layout)
        say("message queue, database")
        messaging.start(self.layout, self.processes)
        databases = Databases(self.layout, self.processes)
        ready = databases.start()
        say("embedded XAPI host")
        self.host.start()
        self._configure_compute()
        if not ready:
            say("database schemas (the first time)")
            databases.migrate()
            seeding.bootstrap(self.layout, self.processes)
        say("Keystone")
        self.services.start_keystone()
        if not ready:
            seeding.seed_identity(self.layout)
            databases.keep()
        say("Placement, Glance, Neutron, Nova")
        self.services.start_web()
        self.processes.wait_port("rabbitmq")
        self.services.start_daemons()
        self.services.start_compute()
        self.services.wait()
        say("nova-compute and the network agent to report")
        with seeding.connect(self.layout) as cloud:
            self.processes.wait(
                "nova-compute",
                lambda: seeding.compute_is_up(self.layout, cloud),
                "to be up with a hypervisor and a network agent",
                180,
            )
        (self.layout.state / "openrc").write_text(seeding.openrc(self.layout))

    def _clear(self) -> None:
        """Empty the state folder but for what later runs use again."""
        state = self.layout.state
        state.mkdir(parents=True, exist_ok=True)
        mark = state / MARK
        entries = list(state.iterdir())
        expect(
            not entries or mark.exists(),
            f"{state} to be empty or an earlier demo's (DEMO_STATE)",
            "files of something else",
        )
        mark.touch()
        for entry in entries:
            if entry in (self.layout.cache, mark):
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _configure_compute(self) -> None:
        path = self.layout.config("nova", "nova-compute.conf")
        options = self.host.options()
        sections = configuration.nova_compute(self.layout, self.backend, options)
        configuration.write(path, sections)
        agent = {"ports_url": f"{self.host.url}/_sim/ports"}
        agent["ca_file"] = str(self.host.certificate)
        configuration.write(
            self.layout.config("neutron", "agent.conf"), {"demo": agent}
        )

    def down(self) -> None:
        """Stop what this state folder's records name."""
        self.processes.stop_all(FOUNDATION)
