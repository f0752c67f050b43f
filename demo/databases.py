# SPDX-License-Identifier: Apache-2.0
"""A private MariaDB with every service's schema, kept as a template between runs."""

from __future__ import annotations

import getpass
import hashlib
import importlib.metadata
import tarfile
from concurrent.futures import ThreadPoolExecutor

from demo.layout import LOOPBACK, PASSWORD, Layout
from demo.messaging import program
from demo.processes import Argv, Processes

NAMES = ("keystone", "glance", "placement", "neutron", "nova_api", "nova", "nova_cell0")
# Their schema is in the template: another version needs another template.
VERSIONED = ("nova", "keystone", "glance", "openstack-placement", "neutron")


def url(layout: Layout, name: str) -> str:
    where = f"{LOOPBACK}:{layout.port('mariadb')}"
    return f"mysql+pymysql://root:{PASSWORD}@{where}/{name}?charset=utf8mb4"


class Databases:
    """MariaDB of one state folder."""

    def __init__(self, layout: Layout, processes: Processes) -> None:
        self.layout = layout
        self.processes = processes
        self.folder = layout.state / "mariadb"
        self.user = getpass.getuser()
        # Endpoints and the message queue's address are in the tables.
        facts = [importlib.metadata.version(name) for name in VERSIONED]
        facts += [*NAMES, str(layout.offset)]
        key = hashlib.sha256(" ".join(facts).encode()).hexdigest()[:16]
        self.template = layout.cache / f"databases-{key}.tar"

    def start(self) -> bool:
        """Start MariaDB, from the template if there is one.

        :returns: whether the schemas and the identities are already there
        """
        ready = self.template.exists()
        self.folder.mkdir(parents=True)
        if ready:
            with tarfile.open(self.template) as archive:
                archive.extractall(self.folder)
        else:
            self._install()
        self._serve()
        return ready

    def _install(self) -> None:
        self.processes.command(
            [
                program("mariadb-install-db", "mariadb-server"),
                "--no-defaults",
                f"--datadir={self.folder}",
                f"--user={self.user}",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ],
            "mariadb",
        )

    def _serve(self) -> None:
        port = self.layout.port("mariadb")
        first = self.layout.state / "mariadb-first.sql"
        first.write_text(
            f"GRANT ALL ON *.* TO root@'{LOOPBACK}' IDENTIFIED BY '{PASSWORD}' "
            "WITH GRANT OPTION;\n"
            + "".join(f"CREATE DATABASE IF NOT EXISTS {n};\n" for n in NAMES)
        )
        argv: Argv = [
            program("mariadbd", "mariadb-server"),
            "--no-defaults",
            f"--datadir={self.folder}",
            f"--user={self.user}",
            f"--init-file={first}",
            # Relative to the data folder: a socket's path has at most 107 bytes.
            "--socket=mysql.sock",
            "--pid-file=mysql.pid",
            f"--port={port}",
            f"--bind-address={LOOPBACK}",
            "--skip-log-bin",
            "--skip-name-resolve",
            # The data lives as long as the demo: nothing waits for the disk.
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--innodb-flush-method=nosync",
            "--innodb-buffer-pool-size=192M",
            "--innodb-log-file-size=32M",
            "--max-connections=400",
            "--performance-schema=0",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_general_ci",
        ]
        self.processes.start("mariadb", argv, listens=port)
        self.processes.wait_port("mariadb", 60)

    def migrate(self) -> None:
        """Create every schema; two services at a time."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._lane, self._migrations().items()))

    def _lane(self, lane: tuple[str, list[Argv]]) -> None:
        name, commands = lane
        for argv in commands:
            self.processes.command(argv, f"database-{name}")

    def _migrations(self) -> dict[str, list[Argv]]:
        def manage(tool: str, service: str, *words: str, file: str = "") -> Argv:
            config = self.layout.config(service, file or None)
            return [self.layout.program(tool), "--config-file", config, *words]

        cell0 = url(self.layout, "nova_cell0")
        nova = ("nova-manage", "nova")
        # The longest first.
        return {
            "nova": [
                manage(*nova, "api_db", "sync"),
                manage(*nova, "cell_v2", "map_cell0", "--database_connection", cell0),
                manage(*nova, "db", "sync"),
                manage(*nova, "cell_v2", "create_cell", "--name", "cell1"),
            ],
            "neutron": [manage("neutron-db-manage", "neutron", "upgrade", "heads")],
            "keystone": [manage("keystone-manage", "keystone", "db_sync")],
            "glance": [
                manage("glance-manage", "glance", "db_sync", file="glance-api.conf")
            ],
            "placement": [manage("placement-manage", "placement", "db", "sync")],
        }

    def keep(self) -> None:
        """Store the databases as they are now as the template of later runs."""
        self.processes.stop("mariadb", 60)
        self.layout.cache.mkdir(parents=True, exist_ok=True)
        unfinished = self.template.with_suffix(".part")
        with tarfile.open(unfinished, "w") as archive:
            archive.add(self.folder, arcname=".")
        unfinished.replace(self.template)
        self._serve()
