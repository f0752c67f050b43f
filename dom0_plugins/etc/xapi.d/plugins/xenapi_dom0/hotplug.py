# SPDX-License-Identifier: Apache-2.0
"""The host's hook for VIFs that come up or go, and the service that watches ports.

xapi's network scripts call ``/etc/xapi.d/vif-hotplug -action online|remove -vifuuid
<uuid> -vmuuid <uuid>`` and wait for it. It then always ends with 0 and prints nothing:
a VIF must come up though we cannot do our part. That part then is done by the service,
``vif-hotplug -action watch``, as soon as it can be; on a closed host (see isolation)
the VIF can send nothing until then. ``-action all`` does once what the service does.
Where the hook is another's, ``python3 -m xenapi_dom0.hotplug`` does the same.

Hooks of others, the one that was there before ours too, lie in vif-hotplug.d and are
called after ours, in the order of their names, with the same arguments.
"""
import contextlib
import os
import select
import stat
import subprocess
import sys
import time

from xenapi_dom0 import commands, failures, isolation, paths, serve, xapi
from xenapi_dom0.serve import LOG

OTHERS = "/etc/xapi.d/vif-hotplug.d"
OTHERS_SECONDS = 60  # for one of the others' hooks
XAPI_SECONDS = 20  # for an answer of XAPI; the VIF waits for us
LOOK = 2.0  # seconds between two looks whether the switch still has our rules
SETTLE = 0.2  # seconds in which changes come together
RETRY = 5.0  # seconds after something went wrong


def run(argv):
    """Carry out one call of the hook; return the exit code."""
    serve.log_to_syslog("vif-hotplug")
    given = dict(zip(argv[::2], argv[1::2]))
    action = given.get("-action")
    code = 0
    try:
        if action == "watch":
            Watch().run()
        elif action == "all":
            with xapi.local_login(XAPI_SECONDS) as session:
                isolation.apply_all(session)
        elif action in ("online", "remove"):
            hook(given.get("-vifuuid", ""), given.get("-vmuuid", ""))
    except failures.Failure as exc:
        LOG.warning("%s: %s %s", action, exc.code, exc.params)
    except Exception:
        # The top of the process, and a VIF that waits for it.
        LOG.exception("%s failed", action)
        code = 1
    if action in ("online", "remove"):
        _call_others(argv)
        return 0
    return code


def hook(vif_uuid, vm_uuid):
    """Make the rules of one VIF right, whichever way it goes.

    The two actions are not told apart: what counts is which ports there are. So a
    "remove" of the old domain that comes late takes nothing from the new one.
    """
    if not (paths.UUID.match(vif_uuid) and paths.UUID.match(vm_uuid)):
        raise failures.Failure(
            failures.BAD_ARGUMENT, "-vifuuid, -vmuuid", "are no UUIDs"
        )
    try:
        with xapi.local_login(XAPI_SECONDS) as session:
            if isolation.closed():
                isolation.apply_all(session)
            else:
                isolation.apply(session, vif_uuid)
    except failures.Failure:
        if isolation.closed():
            isolation.shut(vif_uuid, vm_uuid)
        raise


class Watch:
    """Follows the host's ports for as long as the service runs."""

    def __init__(self):
        self._switch = isolation.backend()
        self._seen = {}
        self._with_rules = set()

    def run(self):
        """Look again whenever ports change, and now and then whether rules are lost."""
        while True:
            monitor = None
            try:
                monitor = commands.start(
                    self._switch.MONITOR, stdout=subprocess.PIPE
                )
                self._follow(monitor)
            except failures.Failure as exc:
                # The switch or XAPI starts again, for instance.
                LOG.warning("Looking again in %d s: %s %s", RETRY, exc.code, exc.params)
                self._seen = {}
                with contextlib.suppress(failures.Failure):
                    isolation.close_if_told()
            finally:
                if monitor is not None:
                    commands.stop(monitor)
            time.sleep(RETRY)

    def _follow(self, monitor):
        """Return when the monitor ends."""
        stream = monitor.stdout.fileno()
        self.look()
        while True:
            ready, _, _ = select.select([stream], [], [], LOOK)
            if ready:
                time.sleep(SETTLE)
                if not os.read(stream, 1 << 20):
                    return
            self.look()

    def look(self):
        """Do what changed since the last look asks for."""
        seen = self._switch.layout()
        changed = {key for key in set(seen) | set(self._seen)
                   if seen.get(key) != self._seen.get(key)}
        lost = self._with_rules - set(self._switch.remembered())
        lost -= {self._switch.trace(key) for key in changed if key}
        if not changed and not lost:
            return
        with xapi.local_login() as session:
            if lost or "" in changed or not self._seen or isolation.closed():
                done = isolation.apply_all(session)
                self._with_rules = set()
            else:
                done = {"failed": (), "applied": [
                    isolation.apply(session, vif_uuid) for vif_uuid in sorted(changed)
                ]}
        if done["failed"]:
            raise failures.Failure(
                failures.COMMAND_FAILED, "isolate VIFs", ", ".join(done["failed"])
            )
        # What was just made counts, not what is there by now: it may be lost already.
        for report in done["applied"]:
            trace = self._switch.trace(report["vif"])
            self._with_rules.discard(trace)
            if report["isolated"] and report["ports"]:
                self._with_rules.add(trace)
        self._seen = seen


def _call_others(argv):
    folder = paths.host_path(OTHERS)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return  # as on most hosts
    for name in names:
        path = os.path.join(folder, name)
        try:
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o100:
                subprocess.call(
                    [path] + list(argv), stdin=subprocess.DEVNULL,
                    timeout=OTHERS_SECONDS,
                )
        except (OSError, subprocess.TimeoutExpired) as exc:
            LOG.warning("%s: %s", path, exc)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
