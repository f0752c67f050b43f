# SPDX-License-Identifier: Apache-2.0
"""From the options to a host that is fit to work with, or one clear sentence.

What can be told from the options alone is in ``ops/fitness.py``, which comes first.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable

from nova import exception as nova_exception
from nova.virt import hardware
from oslo_config import cfg
from oslo_log import log as logging

from xenapi_driver import conf as options
from xenapi_driver import exceptions
from xenapi_driver.images import fresh, handlers
from xenapi_driver.images.rules import TransferRules
from xenapi_driver.steps import snapshot
from xenapi_driver.steps.build import INSTANCE_KEY
from xenapi_driver.xapi import (
    certificates,
    errors,
    host,
    plugged,
    plugins,
    sr,
    transport,
    vbd,
    vdi,
    vm,
)
from xenapi_driver.xapi import home as xapi_home
from xenapi_driver.xapi.session import Session, Tuning

LOG = logging.getLogger(__name__)

# Linux guests of Xen find their own VM's UUID here.
HYPERVISOR_UUID = pathlib.Path("/sys/hypervisor/uuid")


def open_session(conf: cfg.ConfigOpts, service_host: str) -> Session:
    """Log in as ``[xenserver]`` says.

    :param service_host: the compute service's host name, for the originator
    :raises errors.XapiError: the host refused or was not reached
    """
    opts = conf.xenserver
    session = Session(
        _transport_factory(opts),
        opts.connection_username,
        opts.connection_password,
        originator=f"nova-compute@{service_host}",
        tuning=Tuning(
            connections=opts.connection_concurrent,
            login_seconds=opts.login_timeout or None,
        ),
    )
    try:
        session.login()
    except BaseException:
        session.logout()  # it may be half way
        raise
    return session


def _transport_factory(
    opts: cfg.ConfigOpts.GroupAttr,
) -> Callable[[], transport.Transport]:
    """Return what opens one more connection to ``connection_url``."""
    url = opts.connection_url
    verify = certificates.Verify(
        ca_file=opts.connection_ca_file,
        fingerprints=tuple(opts.connection_fingerprints or ()),
        insecure=opts.connection_insecure,
    )
    timeouts = transport.Timeouts(
        connect=opts.connection_connect_timeout, read=opts.connection_read_timeout
    )
    return functools.partial(transport.connect, url, verify=verify, timeouts=timeouts)


def transfer_rules(conf: cfg.ConfigOpts) -> TransferRules:
    """Return how images may be moved."""
    return TransferRules(
        attempts=conf.glance.num_retries + 1,
        insecure=conf.glance.insecure,
        compression_level=conf.xenserver.image_compression_level,
        work_dir=conf.tempdir,
        # As Nova's image client decides, where a server asks for nothing itself.
        signatures=conf.glance.verify_glance_signatures
        or bool(
            conf.glance.enable_certificate_validation
            and conf.glance.default_trusted_certificate_ids
        ),
    )


def open_home(conf: cfg.ConfigOpts, session: Session) -> xapi_home.Home:
    """Find our host's SR and integration bridge, and check that both are fit.

    :raises exceptions.DriverError: what is unfit, and what to do
    """
    opts = conf.xenserver
    check_compute_vm(conf, session)
    plugins.check_version(session)
    storage, path = find_storage(conf, session)
    check_guests(session.host)
    session.clear_leftovers()
    free_disks(conf, session)
    bridge = opts.ovs_integration_bridge
    if bridge:
        # Last, as it may make the network: a host that is unfit stays as it is.
        xapi_home.integration_network(session, bridge)
    home = xapi_home.Home(
        session=session, sr_uuid=storage.uuid, sr_path=path, bridge=bridge or None
    )
    # After the disks are freed: one of them may be a snapshot.
    snapshot.remove_interrupted(home)
    return home


def find_storage(
    conf: cfg.ConfigOpts, session: Session
) -> tuple[sr.SrRecord, str | None]:
    """Return the SR of the servers' disks and its directory in dom0.

    :raises home.SrNotFound: none is what ``sr_matching_filter`` says
    :raises exceptions.UnfitHost: the image handler cannot work with it
    """
    opts = conf.xenserver
    storage = xapi_home.find_sr(session, opts.sr_matching_filter)
    path = xapi_home.sr_path(session, storage, opts.sr_base_path)
    handlers.check_sr(opts.image_handler, storage, path)
    upload = opts.image_upload_handler
    if upload:
        try:
            handlers.check_sr(upload, storage, path)
        except exceptions.UnfitHost as exc:
            raise exceptions.UnfitHost(
                f"image_upload_handler = {upload} cannot serve the SR: {exc.seen}",
                "remove image_upload_handler, so that image_handler uploads, too",
            ) from exc
    return storage, path


def check_guests(record: host.HostRecord) -> None:
    """Refuse a host that runs no HVM guests, as the driver makes few others.

    :raises exceptions.UnfitHost: it does not
    :raises exceptions.UnfitConfiguration: see :func:`servers_cpus`
    """
    servers_cpus(record)
    if not any(word.startswith("hvm-") for word in record.capabilities):
        raise exceptions.UnfitHost(
            f"Host {record.hostname} cannot run HVM guests",
            "switch on Intel VT-x or AMD-V in its firmware and start it again",
        )


def servers_cpus(record: host.HostRecord) -> frozenset[int]:
    """Return the host's processors that servers may use; none: all.

    :raises exceptions.UnfitConfiguration: the host has not all of them
    """
    try:
        found = hardware.get_cpu_shared_set() or hardware.get_vcpu_pin_set() or ()
    except nova_exception.Invalid as exc:
        raise exceptions.UnfitConfiguration(
            f"[compute] cpu_shared_set cannot be understood ({exc})",
            "write it as in 4-12,^8,15",
        ) from exc
    count = int(record.cpu_info["cpu_count"])
    missing = [cpu for cpu in sorted(found) if cpu >= count]
    if missing:
        raise exceptions.UnfitConfiguration(
            f"[compute] cpu_shared_set names processor {missing[0]}, and host "
            f"{record.hostname} has {count}",
            f"name some from 0 to {count - 1}",
        )
    return frozenset(found)


def check_compute_vm(conf: cfg.ConfigOpts, session: Session) -> str | None:
    """Refuse to manage a host on which this service's VM does not run.

    :returns: UUID of that VM, None where there is none to look for
    :raises exceptions.UnfitConfiguration: it runs elsewhere, or is not known
    """
    opts = conf.xenserver
    if not opts.check_host:
        return None
    if _is_in_dom0(opts):
        return None  # so on its own host
    uuid = _own_uuid(opts)
    if uuid is None:
        raise exceptions.UnfitConfiguration(
            "nova-compute does not seem to run in a Xen VM",
            "set [xenserver] compute_vm_uuid to the UUID of its VM, or check_host = "
            "false and independent_compute = true",
        )
    found = vm.find_by_uuid(session, uuid)
    # The other members of a pool know our VM, too.
    if found is None or found.resident_on != session.host_ref:
        raise exceptions.UnfitConfiguration(
            f"The VM {uuid} that nova-compute runs in is not on the host at "
            f"{options.shown_url(opts.connection_url)}",
            "point connection_url at the host that this VM runs on, or set check_host "
            "= false and independent_compute = true",
        )
    return uuid


def free_disks(conf: cfg.ConfigOpts, session: Session) -> None:
    """Unplug disks that an earlier run left in this service's own VM.

    Servers' disks, and such as were to become one.

    It was killed in the middle of its work. They would keep their servers from
    being started or deleted, and take this VM's device numbers. What does not let
    go is told in the log and stays.
    """
    own = _own_vm(conf, session)
    for one in vbd.of_vm(session, own.ref) if own is not None else ():
        disk = session.records[vdi.VdiRecord].get(one.vdi or "")
        if disk is None:
            continue
        server = disk.other_config.get(INSTANCE_KEY)
        if server is None and fresh.run_of(disk, session.host.uuid) is None:
            continue
        LOG.info("Disk %(disk)s of server %(server)s is still in this VM; freeing it.",
                 {"disk": disk.uuid, "server": server or "(none yet)"})  # fmt: skip
        try:
            if one.currently_attached:
                vbd.unplug(session, one.ref)
            vbd.destroy(session, one.ref)
        except errors.XapiError as exc:
            LOG.warning("Disk %(disk)s stays in this VM: %(reason)s",
                        {"disk": disk.uuid, "reason": exc})  # fmt: skip


def place(conf: cfg.ConfigOpts, session: Session) -> plugged.Place | None:
    """Return where disks are plugged for this service, None where they cannot be."""
    opts = conf.xenserver
    own = _own_vm(conf, session)
    if own is None:
        return None
    return plugged.Place(
        own.uuid,
        pathlib.Path(opts.block_device_dir),
        opts.block_device_creation_timeout,
        opts.num_vbd_unplug_retries,
    )


def _own_vm(conf: cfg.ConfigOpts, session: Session) -> vm.VmRecord | None:
    """Return the VM that this service runs in, None where it is not of the pool."""
    opts = conf.xenserver
    if opts.independent_compute:
        return None
    if _is_in_dom0(opts):
        return vm.get(session, session.host.control_domain)
    uuid = _own_uuid(opts)
    return None if uuid is None else vm.find_by_uuid(session, uuid)


def _is_in_dom0(opts: cfg.ConfigOpts.GroupAttr) -> bool:
    return opts.connection_url == options.LOCAL_URL and not opts.compute_vm_uuid


def _own_uuid(opts: cfg.ConfigOpts.GroupAttr) -> str | None:
    """Return the UUID of the VM that we run in as XAPI writes it, None without Xen."""
    if opts.compute_vm_uuid:
        return opts.compute_vm_uuid.lower()
    try:
        return HYPERVISOR_UUID.read_text().strip()
    except OSError:
        return None
