# SPDX-License-Identifier: Apache-2.0
"""Wait until Neutron has wired a server's ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from nova import exception as nova_exception
from oslo_log import log as logging

from xenapi_driver import exceptions

LOG = logging.getLogger(__name__)


def until_plugged(
    virtapi: Any, instance: Any, network_info: Any, timeout: int, fatal: bool
) -> AbstractContextManager | None:
    """Return a context that ends when every port is wired, or None.

    None where there is nothing to wait for: no ports, all of them active already,
    or ``vif_plugging_timeout`` is 0.

    :param timeout: seconds, Nova's ``vif_plugging_timeout``
    :param fatal: Nova's ``vif_plugging_is_fatal``; otherwise the build goes on
    """
    events = [
        ("network-vif-plugged", vif["id"])
        for vif in network_info or ()
        if vif.get("active", True) is False
    ]
    if not events or not timeout:
        return None
    return _waiting(virtapi, instance, events, timeout, fatal)


@contextmanager
def _waiting(
    virtapi: Any, instance: Any, events: list, timeout: int, fatal: bool
) -> Iterator[None]:
    def failed(event_name: str, instance: Any) -> bool:
        message = f"Neutron reported that {event_name} failed for {instance.uuid}."
        if fatal:
            raise exceptions.NetworkingFailed(message)
        LOG.warning(message, instance=instance)
        return True

    try:
        with virtapi.wait_for_instance_event(
            instance, events, timeout=timeout, error_callback=failed
        ):
            yield
    except nova_exception.InstanceEventTimeout as exc:
        ports = ", ".join(port for _, port in events)
        message = (
            f"Neutron did not report the ports {ports} as plugged within {timeout} s "
            "(vif_plugging_timeout): look at its Open vSwitch agent for this host."
        )
        if fatal:
            raise exceptions.NetworkingFailed(message) from exc
        LOG.warning(message, instance=instance)
