# SPDX-License-Identifier: Apache-2.0
"""The ini files of every service."""

from __future__ import annotations

import configparser
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo import databases
from demo.layout import HOST, LOOPBACK, PASSWORD, REGION, Layout
from demo.node import Node

Sections = dict[str, dict[str, Any]]
COMPUTE_DRIVER = "xenapi.XenAPIDriver"
# Folders that the services expect to find.
FOLDERS = (
    *("log", "run", "lock", "nova", "neutron"),
    *("images/store", "images/staging", "images/tasks", "images/cache"),
)


def write(path: Path, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Write one ini file as oslo.config reads it."""
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    for name, values in sections.items():
        if name != parser.default_section:
            parser.add_section(name)
        for key, value in values.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            parser.set(name, key, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        parser.write(file)


def account(layout: Layout, user: str, **more: Any) -> dict[str, Any]:
    """How a service logs in to Keystone."""
    return {
        "auth_type": "password",
        "auth_url": layout.auth_url,
        "username": user,
        "password": PASSWORD,
        "project_name": "service",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        "region_name": REGION,
        **more,
    }


def token(layout: Layout, user: str) -> dict[str, Any]:
    return account(
        layout,
        user,
        www_authenticate_uri=layout.auth_url,
        service_token_roles_required=True,
        service_token_roles="service,admin",
        # Takes most of Keystone's load away.
        memcached_servers=f"{LOOPBACK}:{layout.port('memcached')}",
    )


def database(layout: Layout, name: str) -> dict[str, Any]:
    connection = databases.url(layout, name)
    pool = {"max_pool_size": 5, "max_overflow": 40}
    return {"connection": connection, "max_retries": -1, **pool}


def messaging(layout: Layout) -> Sections:
    """What every service that uses the message queue shares."""
    queue = f"rabbit://guest:guest@{LOOPBACK}:{layout.port('rabbitmq')}/"
    return {
        "DEFAULT": {
            "use_stderr": True,
            "transport_url": queue,
            "rpc_response_timeout": 120,
        },
        "oslo_concurrency": {"lock_path": layout.state / "lock"},
        "oslo_messaging_rabbit": {"heartbeat_timeout_threshold": 120},
        "oslo_messaging_notifications": {"driver": "noop"},
    }


def keystone(layout: Layout) -> Sections:
    keys = layout.state / "keys"
    return {
        "DEFAULT": {"use_stderr": True},
        "database": database(layout, "keystone"),
        "token": {"provider": "fernet", "expiration": 86400},
        "fernet_tokens": {"key_repository": keys / "fernet"},
        "fernet_receipts": {"key_repository": keys / "fernet"},
        "credential": {"key_repository": keys / "credential"},
        "identity": {"password_hash_rounds": 4},
        # Inside the process, so Keystone has to be one process (with threads).
        "cache": {"enabled": True, "backend": "dogpile.cache.memory"},
    }


def glance(layout: Layout) -> Sections:
    images = layout.state / "images"
    sections = messaging(layout)
    sections["DEFAULT"].update(
        enabled_backends="fs:file",
        workers=0,
        image_cache_dir=images / "cache",
        node_staging_uri=f"file://{images}/staging",
    )
    return sections | {
        "database": database(layout, "glance"),
        "glance_store": {"default_backend": "fs"},
        "fs": {"filesystem_store_datadir": images / "store"},
        "os_glance_staging_store": {"filesystem_store_datadir": images / "staging"},
        "os_glance_tasks_store": {"filesystem_store_datadir": images / "tasks"},
        "keystone_authtoken": token(layout, "glance"),
        "paste_deploy": {"flavor": "keystone"},
        # XenServer's classic image is a VHD in an ovf container, and its raw disks
        # come in tgz ones.
        "image_format": {
            "disk_formats": "raw,vhd,qcow2,iso,ami,aki,ari",
            "container_formats": "bare,ovf,tgz,ami,aki,ari",
        },
    }


def placement(layout: Layout) -> Sections:
    return {
        "DEFAULT": {"use_stderr": True},
        "api": {"auth_strategy": "keystone"},
        "placement_database": database(layout, "placement"),
        "keystone_authtoken": token(layout, "placement"),
    }


def neutron(layout: Layout) -> Sections:
    sections = messaging(layout)
    sections["DEFAULT"].update(
        core_plugin="ml2",
        service_plugins="",
        auth_strategy="keystone",
        api_paste_config=layout.config("neutron", "api-paste.ini"),
        state_path=layout.state / "neutron",
        host=HOST,
        notify_nova_on_port_status_changes=True,
        notify_nova_on_port_data_changes=True,
        send_events_interval=1,
        dhcp_agent_notification=False,
        rpc_workers=1,
        rpc_state_report_workers=0,
        agent_down_time=180,
    )
    return sections | {
        "agent": {"report_interval": 30, "root_helper": ""},
        "database": database(layout, "neutron"),
        "keystone_authtoken": token(layout, "neutron"),
        "nova": account(layout, "nova"),
        "placement": account(layout, "placement"),
        "ml2": {
            "type_drivers": "vxlan",
            "project_network_types": "vxlan",
            "mechanism_drivers": "openvswitch",
            "extension_drivers": "port_security",
        },
        "ml2_type_vxlan": {"vni_ranges": "1:1000"},
        "securitygroup": {"enable_security_group": True, "firewall_driver": "noop"},
    }


def nova(layout: Layout) -> Sections:
    sections = messaging(layout)
    sections["DEFAULT"].update(
        my_ip=LOOPBACK,
        host=HOST,
        state_path=layout.state / "nova",
        osapi_compute_workers=1,
        force_config_drive=False,
        service_down_time=180,
        # Else the first periodic tasks, host discovery among them, wait a minute.
        periodic_fuzzy_delay=0,
        # The requests of a step are counted: no periodic report falls into one.
        update_resources_interval=3600,
        sync_power_state_interval=3600,
    )
    return sections | {
        "api": {"auth_strategy": "keystone"},
        "api_database": database(layout, "nova_api"),
        "database": database(layout, "nova"),
        "keystone_authtoken": token(layout, "nova"),
        "service_user": account(layout, "nova", send_service_user_token=True),
        "placement": account(layout, "placement"),
        "glance": {"endpoint_override": layout.url("glance")},
        "neutron": account(layout, "neutron"),
        "scheduler": {
            "workers": 1,
            "discover_hosts_in_cells_interval": 2,
            # There is one host: a server's fault is what that host said.
            "max_attempts": 1,
        },
        "conductor": {"workers": 1},
        "vnc": {"enabled": False},
    }


def nova_compute(
    layout: Layout, backend: str, xenserver: Mapping[str, Any], node: Node
) -> Sections:
    """nova.conf without databases, with the driver: what a compute node has."""
    sections = {k: v for k, v in nova(layout).items() if "database" not in k}
    sections["DEFAULT"].update(
        host=node.name,
        # Where a node keeps who it is.
        state_path=layout.state / node.process("nova"),
        compute_driver=COMPUTE_DRIVER,
        concurrency_backend=backend,
    )
    sections["xenserver"] = dict(xenserver)
    for name, options in node.options.items():
        sections[name] = {**sections.get(name, {}), **options}
    return sections


def write_all(layout: Layout) -> None:
    """Write every file but nova-compute's, which needs facts of the XAPI host."""
    for folder in FOLDERS:
        (layout.state / folder).mkdir(parents=True, exist_ok=True)
    write(layout.config("keystone"), keystone(layout))
    write(layout.config("glance", "glance-api.conf"), glance(layout))
    write(layout.config("placement"), placement(layout))
    write(layout.config("neutron"), neutron(layout))
    write(layout.config("nova"), nova(layout))
    for service, name in (
        ("glance", "glance-api-paste.ini"),
        ("neutron", "api-paste.ini"),
        ("nova", "api-paste.ini"),
    ):
        shutil.copy(layout.prefix / "etc" / service / name, layout.etc / service)
