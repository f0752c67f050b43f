# SPDX-License-Identifier: Apache-2.0
"""The embedded host, and sessions that reach it over the network."""

import contextlib
import time

from xenapi_driver.sim import Simulator
from xenapi_driver.xapi import certificates, transport
from xenapi_driver.xapi.session import Session, Tuning


def log_in(server, *others, read=20.0, retry_seconds=5.0):
    """Return a session at a door of an embedded host, its certificate pinned.

    :param others: doors of other hosts whose certificates are trusted too
    """
    pins = tuple(door.fingerprint for door in (server, *others) if door.fingerprint)
    verify = certificates.Verify(fingerprints=pins)
    timeouts = transport.Timeouts(connect=5.0, read=read)
    session = Session(
        lambda: transport.connect(server.url, verify=verify, timeouts=timeouts),
        "root",
        "secret",
        "test",
        Tuning(retry_seconds=retry_seconds),
    )
    session.login()
    return session


@contextlib.contextmanager
def host(folder, *, tls=False, **choices):
    """Give an embedded host and a session there."""
    sim = Simulator(folder / "host", **choices)
    try:
        with log_in(sim.serve(tls=tls)) as session:
            yield sim, session
    finally:
        sim.close()


def make_disk(session, size):
    """Return a new, empty disk on the default SR."""
    record = {
        "name_label": "disk",
        "name_description": "",
        "SR": session.call("pool.get_default_SR", session.pool.ref),
        "virtual_size": size,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "xenstore_data": {},
        "sm_config": {},
        "tags": [],
    }
    return str(session.call("VDI.create", record))


def soon(what, seconds=10.0):
    """Wait until ``what()`` is true, and return what it gave last."""
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.02)
    return found
