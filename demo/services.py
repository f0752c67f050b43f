# SPDX-License-Identifier: Apache-2.0
"""The OpenStack daemons: how each is started and when it is ready."""

from __future__ import annotations

import sys

from demo.layout import LOOPBACK, Layout
from demo.node import Node
from demo.processes import Argv, Processes

# Web services, in the order in which others need them.
WEB = ("placement", "glance", "neutron-api", "nova-api")
DAEMONS = ("nova-conductor", "nova-scheduler")


class Services:
    """Starts the daemons of one state folder."""

    def __init__(self, layout: Layout, processes: Processes) -> None:
        self.layout = layout
        self.processes = processes

    def _web(
        self, name: str, module: str, env: dict[str, str], shape: tuple[int, int]
    ) -> None:
        """Serve a WSGI module; ``shape`` is processes and threads."""
        port = self.layout.port(name)
        argv: Argv = [
            *(self.layout.program("uwsgi"), "--module", f"{module}:application"),
            *("--http-socket", f"{LOOPBACK}:{port}", "--master", "--need-app"),
            *("--processes", shape[0], "--threads", shape[1]),
            *("--enable-threads", "--lazy-apps", "--die-on-term"),
            *("--buffer-size", 65535, "--http-chunked-input", "--disable-logging"),
            # uwsgi keeps no connections alive: clients must not try.
            *("--add-header", "Connection: close"),
            *("--worker-reload-mercy", 5, "--procname-prefix", f"{name}-"),
            *("--venv", self.layout.prefix, "--chdir", self.layout.state),
            # The services read sys.argv: without this they would see uwsgi's options.
            *("--pyargv", ""),
        ]
        self.processes.start(name, argv, env, listens=port)

    def start_keystone(self) -> None:
        """Start Keystone and wait until it answers."""
        config = self.layout.config("keystone")
        env = {
            "OS_KEYSTONE_CONFIG_DIR": str(config.parent),
            "OS_KEYSTONE_CONFIG_FILES": str(config),
        }
        self._web("keystone", "keystone.wsgi.api", env, (1, 6))
        self.processes.wait_http("keystone", "/v3")

    def start_web(self) -> None:
        """Start the other web services; ``wait`` waits for them."""
        etc = self.layout.etc
        env = {"OS_PLACEMENT_CONFIG_DIR": str(etc / "placement")}
        self._web("placement", "placement.wsgi.api", env, (1, 1))
        env = {"OS_GLANCE_CONFIG_DIR": str(etc / "glance")}
        self._web("glance", "glance.wsgi.api", env, (2, 1))
        env = {
            "OS_NEUTRON_CONFIG_DIR": str(etc / "neutron"),
            "OS_NEUTRON_CONFIG_FILES": "neutron.conf",
        }
        self._web("neutron-api", "neutron.wsgi.api", env, (2, 1))
        env = {
            "OS_NOVA_CONFIG_DIR": str(etc / "nova"),
            "OS_NOVA_CONFIG_FILES": "api-paste.ini;nova.conf",
        }
        self._web("nova-api", "nova.wsgi.osapi_compute", env, (2, 1))

    def start_daemons(self) -> None:
        """Start what talks over the message queue, without nova-compute."""
        neutron: Argv = ["--config-file", self.layout.config("neutron")]
        server = self.layout.program("neutron-rpc-server")
        self.processes.start("neutron-rpc-server", [server, *neutron])
        agent: Argv = ["--config-file", self.layout.config("neutron", "agent.conf")]
        self.processes.start(
            "network-agent",
            [sys.executable, "-m", "demo.network_agent", *neutron, *agent],
            cwd=self.layout.checkout,
        )
        nova: Argv = ["--config-file", self.layout.config("nova")]
        for name in DAEMONS:
            self.processes.start(name, [self.layout.program(name), *nova])

    def start_compute(self, node: Node) -> None:
        name = node.process("nova-compute")
        config = self.layout.config("nova", f"{name}.conf")
        program = self.layout.program("nova-compute")
        self.processes.start(name, [program, "--config-file", config])

    def wait(self) -> None:
        """Wait until every web service answers."""
        for name in WEB:
            self.processes.wait_http(name)
