# SPDX-License-Identifier: Apache-2.0
"""From the options to a host that is fit to work with, or one clear sentence."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from urllib.parse import urlsplit

from oslo_config import cfg
from oslo_log import log as logging

from xenapi_driver import exceptions
from xenapi_driver.images import direct_vhd
from xenapi_driver.xapi import home as xapi_home
from xenapi_driver.xapi import host, plugins, transport, vm
from xenapi_driver.xapi.session import Session

LOG = logging.getLogger(__name__)

# XAPI on the machine that we run on, which is dom0 then.
LOCAL_URL = "unix://local"

# Linux guests of Xen find their own VM's UUID here.
HYPERVISOR_UUID = pathlib.Path("/sys/hypervisor/uuid")


def open_session(conf: cfg.ConfigOpts, service_host: str) -> Session:
    """Log in as ``[xenserver]`` says.

    :param service_host: the compute service's host name, for the originator
    :raises exceptions.UnfitConfiguration: an option is missing or unusable
    :raises errors.XapiError: the host refused or was not reached
    """
    opts = conf.xenserver
    if not opts.connection_url or opts.connection_password is None:
        raise exceptions.UnfitConfiguration(
            "[xenserver] connection_url and connection_password must be set for "
            "compute_driver = xenapi.XenAPIDriver."
        )
    session = Session(
        _transport_factory(opts),
        opts.connection_username,
        opts.connection_password,
        originator=f"nova-compute@{service_host}",
        max_connections=opts.connection_concurrent,
    )
    session.login()
    return session


def _transport_factory(
    opts: cfg.ConfigOpts.GroupAttr,
) -> Callable[[], transport.Transport]:
    """Return what opens one more connection to ``connection_url``."""
    url = opts.connection_url
    scheme = urlsplit(url).scheme
    if url == LOCAL_URL:
        return functools.partial(transport.UnixTransport, transport.LOCAL_SOCKET)
    if scheme not in ("http", "https"):
        raise exceptions.UnfitConfiguration(
            f"[xenserver] connection_url = {url} is not understood: give "
            "https://ADDRESS, http://ADDRESS or unix://local."
        )
    if opts.connection_insecure:
        LOG.warning(
            "[xenserver] connection_insecure is set: the certificate of %s is not "
            "verified. Set connection_fingerprints instead.",
            url,
        )
    verify = transport.Verify(
        ca_file=opts.connection_ca_file,
        fingerprints=tuple(opts.connection_fingerprints or ()),
        insecure=opts.connection_insecure,
    )
    timeouts = transport.Timeouts(
        connect=opts.connection_connect_timeout, read=opts.connection_read_timeout
    )
    return functools.partial(transport.HttpTransport, url, verify, timeouts)


def open_home(conf: cfg.ConfigOpts, session: Session) -> xapi_home.Home:
    """Find our host's SR and integration bridge, and check that both are fit.

    :raises exceptions.DriverError: what is unfit, and what to do
    """
    opts = conf.xenserver
    if opts.image_handler != "direct_vhd":
        raise exceptions.UnfitConfiguration(
            f"[xenserver] image_handler = {opts.image_handler} is not there yet: "
            "this release has direct_vhd."
        )
    _check_compute_vm(opts, session)
    plugins.check_version(session)
    storage = xapi_home.find_sr(session, opts.sr_matching_filter)
    path = xapi_home.sr_path(session, storage, opts.sr_base_path)
    direct_vhd.check_sr(storage, path)
    bridge = opts.ovs_integration_bridge
    # Last, as it may make the network: a host that is unfit stays as it is.
    return xapi_home.Home(
        session=session,
        host=host.get(session, session.host_ref),
        sr=storage,
        sr_path=path,
        integration_network=(
            xapi_home.integration_network(session, bridge) if bridge else None
        ),
    )


def _check_compute_vm(opts: cfg.ConfigOpts.GroupAttr, session: Session) -> None:
    """Refuse to manage a host on which this service's VM does not run."""
    if not opts.check_host or opts.independent_compute:
        return
    if opts.connection_url == LOCAL_URL and not opts.compute_vm_uuid:
        return  # in dom0, so on its own host
    uuid = opts.compute_vm_uuid or _machine_uuid()
    if uuid is None:
        raise exceptions.UnfitConfiguration(
            "nova-compute does not seem to run in a Xen VM: set [xenserver] "
            "compute_vm_uuid to the UUID of its VM, or check_host = False."
        )
    found = vm.find_by_uuid(session, uuid)
    # The other members of a pool know our VM, too.
    if found is None or found.resident_on != session.host_ref:
        raise exceptions.UnfitConfiguration(
            f"The VM {uuid} that nova-compute runs in is not on the host at "
            f"{opts.connection_url}: point connection_url at the host that this VM "
            "runs on, or set check_host = False."
        )


def _machine_uuid() -> str | None:
    """Return the UUID that Xen gave the machine we run on, None without Xen."""
    try:
        return HYPERVISOR_UUID.read_text().strip()
    except OSError:
        return None
