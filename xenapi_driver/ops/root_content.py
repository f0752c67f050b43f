# SPDX-License-Identifier: Apache-2.0
"""What is changed in a server's root disk before its first boot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nova.virt import netutils
from oslo_config import cfg

from xenapi_driver.steps import injection, root_growth
from xenapi_driver.steps.root_disk import Change


def changes(
    conf: cfg.ConfigOpts, instance: Any, network_info: Any
) -> tuple[Change, ...]:
    """Return what the server and the options ask for, in order.

    :param network_info: of Nova, read when the disk is there
    """
    found = []
    if instance.auto_disk_config and instance.flavor.root_gb:
        found.append(root_growth.GROWTH)
    if conf.flat_injected:
        agent = "/" + conf.xenserver.agent_path.lstrip("/")
        inject = _injector(instance, network_info, agent)
        found.append(Change("flat_injected", inject, injection.PROGRAMS))
    return tuple(found)


def _injector(instance: Any, network_info: Any, agent: str) -> Callable[[Path], None]:
    def inject(device: Path) -> None:
        injection.inject(device, tuple(_files(instance, network_info)), agent)

    return inject


def _files(instance: Any, network_info: Any) -> Iterator[injection.File]:
    """Give the files, where earlier releases had them."""
    if instance.key_data:
        text = f"\n# The key that the server was created with\n{instance.key_data}\n"
        path = "/root/.ssh/authorized_keys"
        yield injection.File(path, text.encode(), 0o600, append=True)
    # Of Debian's layout, and only for networks that say that they are injected.
    interfaces = netutils.get_injected_network_template(network_info)
    if interfaces:
        yield injection.File("/etc/network/interfaces", interfaces.encode())
    if instance.metadata:
        yield injection.File("/meta.js", json.dumps(dict(instance.metadata)).encode())
