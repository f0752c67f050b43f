# SPDX-License-Identifier: Apache-2.0
"""What an earlier run of this service, killed at its work, has left on the host."""

from __future__ import annotations

from collections.abc import Callable

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from oslo_log import log as logging

from xenapi_driver.images import left_overs
from xenapi_driver.steps.build import INSTANCE_KEY
from xenapi_driver.xapi import errors, sr, vdi, vm
from xenapi_driver.xapi.home import Home

LOG = logging.getLogger(__name__)


def never_ran(server_uuid: str, service_host: str) -> bool:
    """Tell whether a server was to be built here and never was; asks Nova's database.

    Only then has nobody lost anything with its disks.
    """
    context = nova_context.get_admin_context(read_deleted="yes")
    try:
        instance = objects.Instance.get_by_uuid(context, server_uuid)
    except nova_exception.InstanceNotFound:
        return False  # purged, or of another cloud
    return instance.launched_at is None and instance.host in (None, service_host)


def clear(home: Home, never_ran: Callable[[str], bool]) -> None:
    """Remove disks of builds that were broken off; for a service that starts.

    What the host does not let go is told in the log and stays.

    :param never_ran: whether a server, by its UUID, was to be built here and was not
    :raises errors.XapiError: the host is not heard
    """
    if home.sr_path is not None:
        # What dom0 had fetched completely is known to XAPI only now.
        try:
            sr.scan(home.session, home.sr.ref)
        except errors.XapiFailure as exc:
            LOG.warning("SR %(sr)s could not be scanned for left-overs: %(why)s",
                        {"sr": home.sr.uuid, "why": exc})  # fmt: skip
    left_overs.remove_twins(home)
    left_overs.remove_strays(home)
    for disk in _without_vm(home):
        server = disk.other_config[INSTANCE_KEY]
        try:
            if never_ran(server):
                vdi.destroy(home.session, disk.ref)
                LOG.info("Removed disk %(disk)s of a build that was broken off.",
                         {"disk": disk.uuid}, instance_uuid=server)  # fmt: skip
        # Whatever keeps Nova or the host from an answer: the disk is safe then.
        except Exception as exc:
            LOG.warning("Disk %(disk)s has no VM and stays: %(why)s",
                        {"disk": disk.uuid, "why": exc},
                        instance_uuid=server)  # fmt: skip


def _without_vm(home: Home) -> list[vdi.VdiRecord]:
    """Return the disks, in nobody's hands, of servers without a VM in the pool.

    Those of our SR, and CDs of any library.
    """
    session = home.session
    found = vdi.in_sr(session, home.sr.ref)
    for other in sr.all(session):
        if other.content_type == "iso" and other.ref != home.sr.ref:
            found += vdi.in_sr(session, other.ref)
    with_vm = {one.nova_uuid for one in session.records[vm.VmRecord].values()}
    return [
        one
        for one in found
        if one.managed
        and not one.is_a_snapshot
        and INSTANCE_KEY in one.other_config
        and one.other_config[INSTANCE_KEY] not in with_vm
        and not one.vbds
        and not one.current_operations
    ]
