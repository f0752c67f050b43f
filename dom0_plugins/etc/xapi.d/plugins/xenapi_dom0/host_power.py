# SPDX-License-Identifier: Apache-2.0
"""Stop and start hosts, and have one join a pool.

A host that is to go is disabled first, so that nothing is started there meanwhile,
then every VM on it is shut down: asked first, and taken away if it does not follow. The
VM that nova-compute runs in comes last. Nothing is moved elsewhere: a caller who wants
that evacuates the host before.
"""
import contextlib
import time
import xmlrpc.client

from xenapi_dom0 import failures, web, xapi
from xenapi_dom0.serve import LOG

POLL = 0.5  # seconds between two looks at tasks
# XAPI gives a guest 20 minutes to shut down (domain_shutdown_total_timeout).
SHUTDOWN_TIMEOUT = 1500  # seconds
REMOTE_TIMEOUT = 1800  # seconds that one call to the joining host may take
MAX_ANSWER = 4 * 1024 * 1024  # bytes; it is asked for one record of a VM at most
STARTS = 23  # tries to start nova-compute's VM after a join
START_PAUSE = 10  # seconds between them


def set_enabled(session, ref, enabled):
    """Let a host take VMs or not; return what it says of itself afterwards."""
    session.call("host.enable" if enabled else "host.disable", ref)
    now = session.call("host.get_record", ref)["enabled"]
    return "enabled" if now else "disabled"


def leave(session, ref, action, last_uuid=None):
    """Disable a host, shut down what runs on it, and ``reboot`` or ``shutdown`` it.

    :param last_uuid: of the VM that goes after all others
    """
    session.call("host.disable", ref)
    guests = []
    last = []
    for vm in session.call("host.get_record", ref)["resident_VMs"]:
        record = session.call("VM.get_record", vm)
        if record["is_control_domain"]:
            continue
        (last if record["uuid"] == last_uuid else guests).append(vm)
    for group in (guests, last):
        _shut_down(session, group)
    session.call("host." + action, ref)


def _shut_down(session, vms):
    """Shut VMs down, all at the same time, and wait until they are.

    :raises Failure: what XAPI said of the first that did not go
    """
    tasks = [(vm, session.call("Async.VM.shutdown", vm)) for vm in vms]
    deadline = time.monotonic() + SHUTDOWN_TIMEOUT
    failed = None
    try:
        for vm, task in tasks:
            record = _finished(session, task, deadline)
            if record["status"] != "success" and not _is_halted(session, vm):
                failed = failed or xapi.Refused("VM.shutdown", record["error_info"])
    finally:
        for _vm, task in tasks:
            with contextlib.suppress(failures.Failure):
                session.call("task.destroy", task)
    if failed is not None:
        raise failed


def _finished(session, task, deadline):
    while True:
        record = session.call("task.get_record", task)
        if record["status"] not in ("pending", "cancelling"):
            return record
        if time.monotonic() >= deadline:
            raise failures.Failure(
                failures.TIMED_OUT, "the VMs to shut down", SHUTDOWN_TIMEOUT
            )
        time.sleep(POLL)


def _is_halted(session, vm):
    return session.call("VM.get_record", vm)["power_state"] == "Halted"


def start(session, ref, uuid, own_uuid):
    """Turn another host of the pool on."""
    if uuid == own_uuid:
        raise failures.Failure(
            failures.NOT_SUPPORTED, "the start of this host",
            "it is running; ask another host of its pool to start one that is off",
        )
    session.call("host.power_on", ref)


# --- joining a pool -------------------------------------------------------------------


class _Joiner:
    """A session at the host that is to join, with its own address and login."""

    def __init__(self, url, verify):
        self._proxy = xmlrpc.client.ServerProxy(
            url, transport=_transport(url, verify), allow_none=True
        )
        self._session = None

    def login(self, user, password):
        self._session = self._ask(
            "session.login_with_password", user, password, "1.0", xapi.ORIGINATOR
        )

    def logout(self):
        with contextlib.suppress(failures.Failure):
            self._ask("session.logout", self._session)

    def call(self, method, *args):
        return self._ask(method, self._session, *args)

    def _ask(self, method, *args):
        return xapi.ask(self._proxy, "the joining host", method, args)


def _transport(url, verify):
    """Return a transport that verifies the host, and does not wait for ever."""
    secure = url.startswith("https:")
    base = xmlrpc.client.SafeTransport if secure else xmlrpc.client.Transport

    class Patient(base):
        def make_connection(self, host):
            connection = super().make_connection(host)
            connection.timeout = REMOTE_TIMEOUT
            return connection

        # An answer that is packed could unpack to anything.
        accept_gzip_encoding = False

        def request(self, host, handler, request_body, verbose=False):
            # The library's own asks a second time when the connection is cut, as it
            # is by a toolstack that restarts because it did what it was asked.
            return self.single_request(host, handler, request_body, verbose)

        def parse_response(self, response):
            # Nobody knows that host yet: the library takes an answer of any length,
            # and a text that grows when it is read.
            data = response.read(MAX_ANSWER + 1)
            if len(data) > MAX_ANSWER or b"<!" in data or b"\0" in data:
                raise xmlrpc.client.ResponseError()
            parser, found = self.getparser()
            parser.feed(data)
            parser.close()
            return found.close()

    if not secure:
        return Patient()
    return Patient(context=web.tls_context(verify))


def join(session, joiner, pool):
    """Have a host join this pool; the VM of its nova-compute runs again afterwards.

    :param joiner: dict of url, verify, user, password, compute_uuid
    :param pool: dict of force, master_addr, master_user, master_pass
    """
    remote = _Joiner(joiner["url"], joiner["verify"])
    # An earlier call may have got as far as that: what is left is the VM.
    if not _is_member(remote, joiner):
        try:
            _join(remote, joiner, pool)
        finally:
            remote.logout()
    _start(session, joiner["compute_uuid"])


def _is_member(remote, joiner):
    """Log in to a host; say whether it follows another one, which refuses a login."""
    try:
        remote.login(joiner["user"], joiner["password"])
    except xapi.Refused as exc:
        if exc.error[0] != "HOST_IS_SLAVE":
            raise
        return True
    return False


def _join(remote, joiner, pool):
    vm = remote.call("VM.get_by_uuid", joiner["compute_uuid"])
    if remote.call("VM.get_record", vm)["power_state"] != "Halted":
        remote.call("VM.clean_shutdown", vm)
    try:
        remote.call(
            "pool.join_force" if pool["force"] else "pool.join",
            pool["master_addr"], pool["master_user"], pool["master_pass"],
        )
        return
    except xapi.Refused as exc:
        failure = exc
    except failures.Failure as exc:
        # Cut off: its toolstack restarts when it joined, so the answer may be lost.
        failure = exc
        if _became_member(remote, joiner):
            return
    # Still its own pool: what was shut down for nothing runs again.
    with contextlib.suppress(failures.Failure):
        remote.call("VM.start", vm, False, False)
    raise failure


def _became_member(remote, joiner):
    for attempt in range(1, STARTS + 1):
        try:
            return _is_member(remote, joiner)
        except failures.Failure as exc:
            LOG.info("The joining host does not answer yet: %s", exc.params)
        if attempt < STARTS:
            time.sleep(START_PAUSE)
    return False


def _start(session, uuid):
    """Start a VM that came with a host, which takes a while to be ready for it."""
    for attempt in range(1, STARTS + 1):
        try:
            vm = session.call("VM.get_by_uuid", uuid)
            if session.call("VM.get_record", vm)["power_state"] == "Halted":
                session.call("VM.start", vm, False, False)
            return
        except failures.Failure as exc:
            LOG.info("The VM does not start yet: %s %s", exc.code, exc.params)
            if attempt == STARTS:
                raise
        time.sleep(START_PAUSE)
