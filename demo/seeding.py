# SPDX-License-Identifier: Apache-2.0
"""What the services need in Keystone, and the client with which the demo asks."""

from __future__ import annotations

import os
from typing import Any

import openstack
import openstack.exceptions
from cryptography.fernet import Fernet

from demo.failure import DemoFailure
from demo.layout import PASSWORD, REGION, Layout
from demo.processes import Processes

# service type: user and name of the service, process that serves it, path
CATALOG = {
    "image": ("glance", "glance", ""),
    "placement": ("placement", "placement", ""),
    "network": ("neutron", "neutron-api", ""),
    "compute": ("nova", "nova-api", "/v2.1"),
}


def connect(layout: Layout) -> openstack.connection.Connection:
    """The public APIs, as the administrator."""
    return openstack.connection.Connection(
        auth={
            "auth_url": layout.auth_url,
            "username": "admin",
            "password": PASSWORD,
            "project_name": "admin",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        region_name=REGION,
        compute_api_version="2.100",
        placement_api_version="1.39",
    )


def openrc(layout: Layout) -> str:
    """Shell exports for the ordinary ``openstack`` client."""
    values = {
        "OS_AUTH_URL": layout.auth_url,
        "OS_USERNAME": "admin",
        "OS_PASSWORD": PASSWORD,
        "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": REGION,
        "OS_IDENTITY_API_VERSION": "3",
        "PATH": f"{layout.prefix / 'bin'}:$PATH",
    }
    return "".join(f'export {name}="{value}"\n' for name, value in values.items())


def write_keys(layout: Layout) -> None:
    """Keystone's keys: a staged one (0) and a primary one (1), fresh each run."""
    for name in ("fernet", "credential"):
        folder = layout.state / "keys" / name
        folder.mkdir(mode=0o700, parents=True)
        for index in ("0", "1"):
            (folder / index).write_bytes(Fernet.generate_key())
            os.chmod(folder / index, 0o600)


def bootstrap(layout: Layout, processes: Processes) -> None:
    """Keystone's administrator and its own endpoint."""
    url = layout.auth_url
    processes.command(
        [
            layout.program("keystone-manage"),
            *("--config-file", layout.config("keystone"), "bootstrap"),
            *("--bootstrap-password", PASSWORD, "--bootstrap-admin-url", url),
            *("--bootstrap-internal-url", url, "--bootstrap-public-url", url),
            *("--bootstrap-region-id", REGION),
        ],
        "keystone-manage",
    )


def seed_identity(layout: Layout) -> None:
    """Users, services and endpoints; before the services start and log in."""
    with connect(layout) as cloud:
        identity: Any = cloud.identity
        project = identity.create_project(name="service", domain_id="default")
        roles = {role.name: role for role in identity.roles()}
        for name in ("admin", "service"):
            if name not in roles:
                roles[name] = identity.create_role(name=name)
        for kind, (name, process, path) in CATALOG.items():
            user = identity.create_user(
                name=name,
                password=PASSWORD,
                domain_id="default",
                default_project_id=project.id,
            )
            for role in ("admin", "service"):
                identity.assign_project_role_to_user(project, user, roles[role])
            service = identity.create_service(name=name, type=kind)
            for interface in ("public", "internal"):
                identity.create_endpoint(
                    service_id=service.id,
                    interface=interface,
                    url=layout.url(process, path),
                    region_id=REGION,
                )


def compute_is_up(
    layout: Layout, cloud: openstack.connection.Connection, name: str
) -> bool:
    """Whether the scheduler could place a server with a port on a compute node.

    :raises DemoFailure: an API answers with an error
    """
    try:
        services = cloud.compute.services(binary="nova-compute", host=name)
        if not any(s.state == "up" for s in services):
            return False
        hypervisors = cloud.compute.hypervisors(details=True)
        if not any(h.service_details["host"] == name for h in hypervisors):
            return False
        return any(agent.is_alive for agent in cloud.network.agents(host=name))
    except openstack.exceptions.HttpException as exc:
        log = layout.log_of("nova-api")
        raise DemoFailure("the compute and network APIs to answer", exc, log) from exc
