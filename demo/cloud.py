# SPDX-License-Identifier: Apache-2.0
"""Bring the whole cloud up in a fresh state folder, and down again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import openstack

from demo import configuration, messaging, seeding
from demo.databases import Databases
from demo.failure import expect
from demo.host import PROCESS as HOST_PROCESS
from demo.host import Host
from demo.layout import Layout
from demo.node import Node
from demo.processes import Processes
from demo.services import Services

Say = Callable[[str], None]
# In every state folder: without it a folder is somebody's, and is not emptied.
MARK = "made-by-the-xenapi-driver-demo"
# Stopped last, in this order, after the XAPI hosts: the others still talk to them
# while they end.
FOUNDATION = ("keystone", "mariadb", *messaging.NAMES)


class Cloud:
    """Everything that runs in one state folder.

    :ivar hosts: the XAPI hosts, one of each compute node
    """

    def __init__(
        self, layout: Layout, backend: str, nodes: Sequence[Node] = (Node(),)
    ) -> None:
        self.layout = layout
        self.backend = backend
        self.processes = Processes(layout)
        self.services = Services(layout, self.processes)
        self.hosts = [Host(layout, self.processes, node) for node in nodes]

    @property
    def host(self) -> Host:
        """The XAPI host of the first node."""
        return self.hosts[0]

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
        for host in self.hosts:
            host.start()
        for host in self.hosts:
            host.wait()
            self.configure_compute(host)
        self._configure_agent()
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
        for host in self.hosts:
            self.services.start_compute(host.node)
        self.services.wait()
        say("nova-compute and the network agent to report")
        with seeding.connect(self.layout) as cloud:
            for host in self.hosts:
                self.wait_compute(cloud, host.node)
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

    def configure_compute(self, host: Host) -> None:
        """Write nova-compute's file for the node of a host that answers."""
        options = host.options()
        sections = configuration.nova_compute(
            self.layout, self.backend, options, host.node
        )
        sections["DEFAULT"]["state_path"].mkdir(parents=True, exist_ok=True)
        # Where nova-compute keeps the age of cached images.
        (sections["DEFAULT"]["state_path"] / "instances").mkdir(exist_ok=True)
        name = host.node.process("nova-compute")
        configuration.write(self.layout.config("nova", f"{name}.conf"), sections)

    def _configure_agent(self) -> None:
        """One agent speaks for all nodes; the hosts' certificates are in one file."""
        urls = [f"{host.node.name}:{host.url}/_sim/ports" for host in self.hosts]
        trusted = self.layout.etc / "xapi-hosts.pem"
        trusted.write_text("".join(h.certificate.read_text() for h in self.hosts))
        agent = {"ports_urls": ",".join(urls), "ca_file": trusted}
        configuration.write(
            self.layout.config("neutron", "agent.conf"), {"demo": agent}
        )

    def wait_compute(self, api: openstack.connection.Connection, node: Node) -> None:
        """Wait until servers can be placed on a node.

        :raises DemoFailure: its nova-compute ended or is not up in time
        """
        self.processes.wait(
            node.process("nova-compute"),
            lambda: seeding.compute_is_up(self.layout, api, node.name),
            "to be up with a hypervisor and a network agent",
            180,
        )

    def down(self) -> None:
        """Stop what this state folder's records name."""
        names = self.processes.names()
        hosts = [name for name in names if name.startswith(HOST_PROCESS)]
        self.processes.stop_all((*hosts, *FOUNDATION))
