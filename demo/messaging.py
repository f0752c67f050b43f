# SPDX-License-Identifier: Apache-2.0
"""A private RabbitMQ, with its own epmd, and a private memcached."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from demo.failure import DemoFailure
from demo.layout import LOOPBACK, Layout
from demo.processes import Processes

NAMES = ("memcached", "rabbitmq", "epmd")  # the order in which they are stopped


def program(name: str, package: str) -> str:
    """The path of a distribution's program.

    :raises DemoFailure: it is not installed
    """
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise DemoFailure(f"the program {name}", f"Debian package {package} is missing")
    return found


def packaged_file(package: str, tail: str) -> Path:
    """A file of a Debian package, found by the end of its name."""
    listing = subprocess.run(
        [program("dpkg-query", "dpkg"), "-L", package],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in listing.stdout.splitlines():
        if line.endswith(tail):
            return Path(line)
    raise DemoFailure(f"a file {tail}", f"Debian package {package} is missing")


def rabbit_environment(layout: Layout) -> dict[str, str]:
    home = layout.state / "rabbit"
    return {
        "HOME": str(home),
        "RABBITMQ_NODENAME": "demo@localhost",
        "RABBITMQ_NODE_PORT": str(layout.port("rabbitmq")),
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_DIST_PORT": str(layout.port("rabbitmq-nodes")),
        "ERL_EPMD_PORT": str(layout.port("epmd")),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "RABBITMQ_BASE": str(home),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_LOGS": "-",
        # The distribution port on loopback too; no busy waiting on a small machine.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none"
        ),
    }


def write_rabbit_files(layout: Layout) -> None:
    home = layout.state / "rabbit"
    home.mkdir(parents=True, exist_ok=True)
    (home / "rabbitmq.conf").write_text(
        f"listeners.tcp.default = {LOOPBACK}:{layout.port('rabbitmq')}\n"
        "loopback_users = none\n"
        "vm_memory_high_watermark.absolute = 600MB\n"
        "disk_free_limit.absolute = 50MB\n"
        "log.console = true\n"
        "log.console.level = warning\n"
        "log.file = false\n"
    )
    (home / "enabled_plugins").write_text("[].\n")
    (home / "env.conf").write_text("")


def start(layout: Layout, processes: Processes) -> None:
    """Start all three; RabbitMQ is ready only after ``wait_port("rabbitmq")``."""
    write_rabbit_files(layout)
    env = rabbit_environment(layout)
    port = layout.port("epmd")
    epmd = program("epmd", "erlang-base")
    # First and in the foreground: RabbitMQ would leave one that nobody recorded.
    processes.start(
        "epmd", [epmd, "-address", LOOPBACK, "-port", port], env, None, port
    )
    processes.wait_port("epmd", 20)
    # Not the one in PATH: that wrapper changes to the user and folders of the system.
    server = packaged_file("rabbitmq-server", "rabbitmq/bin/rabbitmq-server")
    processes.start(
        "rabbitmq", [server], env, layout.state / "rabbit", layout.port("rabbitmq")
    )
    port = layout.port("memcached")
    argv: list[str | Path | int]
    argv = [program("memcached", "memcached"), "-l", LOOPBACK, "-p", port]
    argv += ["-U", 0, "-m", 64, "-t", 1]
    if os.getuid() == 0:
        argv += ["-u", "root"]
    processes.start("memcached", argv, listens=port)
