# SPDX-License-Identifier: Apache-2.0
"""Keep the guests' console logs small, apart from each other, and findable.

Run once a minute. Each run repeats whatever a killed one left out.
"""
import contextlib
import json
import os
import re
import time

from xenapi_dom0 import domains, failures, guest_logs, paths, xapi
from xenapi_dom0.serve import LOG

LIMIT = 1024 * 1024  # bytes; a guest has two files of it
AGE = 600  # seconds; a domain's start may be told to us later than its log begins
LOOK_AFTER = 600  # seconds between questions for all VMs, of which a pool has many
# xenconsoled logs all domains to this file ...
EVERY = "/local/logconsole/@"
# ... and opens its log anew when this one changes.
ONE = "/local/logconsole/%d"
LAST_ID = "last_dom_id"
_KEPT = 'field "is_a_template" = "false" and field "is_a_snapshot" = "false"'


class Rotation:
    """One run.

    :param store: xenstore.Store
    :param folder: guest_logs.Folder
    :param login: context manager that gives a Session of XAPI
    """

    def __init__(self, store, folder, login=xapi.local_login):
        self._store = store
        self._folder = folder
        self._login = login
        self._notes = _read_notes()
        self._owners = guest_logs.owners()
        self._told = self._notes.pop("told", {})

    def run(self):
        """Do all of it; what fails does not keep the rest from being done."""
        self._log_all()
        alive = self._alive()
        logs = self._folder.found()
        for step in (self._separate, self._shorten, self._tell, self._forget):
            try:
                step(alive, logs)
            except (failures.Failure, OSError) as exc:
                LOG.warning("Console logs, %s: %s", step.__name__, exc)
        self._save()

    def _log_all(self):
        wanted = (guest_logs.FOLDER + "/console.%d").encode("ascii")
        if self._store.read(EVERY) != wanted:
            self._store.write(EVERY, wanted)

    def _alive(self):
        """Return the dict of domain id to VM of the guests that run."""
        found = {}
        for name in self._store.names("/local/domain") or ():
            vm = domains.owner(self._store, int(name)) if name.isdigit() else None
            if vm is not None and paths.UUID.match(vm) and int(name) > 0:
                found[int(name)] = vm
        return found

    def _separate(self, alive, logs):
        """Remove what another VM wrote when its domain had the same id."""
        for dom_id, vm in alive.items():
            if self._owners.get(dom_id, vm) != vm and dom_id in logs:
                LOG.info("Removing the log of an earlier domain %d.", dom_id)
                self._folder.remove(dom_id)
                self._reopen(dom_id)
            self._owners[dom_id] = vm

    def _shorten(self, alive, logs):
        """Put aside the logs that are full, and cut what is too long all the same."""
        for dom_id in logs:
            size = self._folder.size(dom_id)
            if dom_id in alive and (size is None or size > LIMIT):
                # None: put aside, and then killed or not heard.
                if size is not None:
                    self._folder.put_aside(dom_id)
                self._reopen(dom_id)
            for older in (True, False):
                if (self._folder.size(dom_id, older) or 0) > 2 * LIMIT:
                    self._cut(dom_id, older)

    def _reopen(self, dom_id):
        path = guest_logs.FOLDER + "/" + guest_logs.name(dom_id)
        self._store.write(ONE % dom_id, path.encode("ascii"))
        self._store.remove(ONE % dom_id)

    def _cut(self, dom_id, older):
        """Leave the last bytes, in place: that needs no space, and spares a writer."""
        descriptor = self._folder.open(dom_id, older, writable=True)
        if descriptor is None:
            return
        with os.fdopen(descriptor, "r+b") as file:
            file.seek(-LIMIT, os.SEEK_END)
            end = file.read(LIMIT)
            file.seek(0)
            file.write(end)
            file.truncate()

    def _tell(self, alive, logs):
        """Write into each VM under which id it runs: its log is found by that."""
        new = {
            dom_id: vm for dom_id, vm in alive.items() if self._told.get(dom_id) != vm
        }
        if new:
            with self._login() as session:
                for dom_id, vm in new.items():
                    with contextlib.suppress(xapi.Refused):
                        _set_last_id(session, vm, dom_id)
                    self._told[dom_id] = vm
        self._told = {dom_id: self._told.get(dom_id) for dom_id in alive}

    def _forget(self, alive, logs):
        """Remove old logs that no VM is told to have written."""
        now = time.time()
        old = [
            dom_id for dom_id, found in logs.items()
            if dom_id not in alive and now - found.st_mtime > AGE
        ]
        waited = now - self._notes.get("looked", 0)
        if old and not 0 <= waited < LOOK_AFTER:
            with self._login() as session:
                writers = _last_ids(session)
            for dom_id in old:
                if not self._is_kept(writers.get(dom_id, ()), dom_id):
                    self._folder.remove(dom_id)
            self._notes["looked"] = now
        there = set(self._folder.found()) | set(alive)
        self._owners = {
            dom_id: vm for dom_id, vm in self._owners.items() if dom_id in there
        }

    def _is_kept(self, vms, dom_id):
        owner = self._owners.get(dom_id)
        return bool(vms) if owner is None else owner in vms

    def _save(self):
        path = paths.host_path(guest_logs.OWNERS)
        self._notes.update(owners=self._owners, told=self._told)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        # One name, as there is one run at a time: a killed run leaves one file.
        aside = path + ".new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(aside, flags, 0o600), "w") as file:
            json.dump(self._notes, file)
        os.rename(aside, path)


def _read_notes():
    """Return what the last run knew; nothing where that cannot be read."""
    try:
        with open(paths.host_path(guest_logs.OWNERS)) as file:
            notes = json.load(file)
        told = {int(dom_id): vm for dom_id, vm in notes.get("told", {}).items()}
        return {"told": told, "looked": float(notes.get("looked", 0))}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _set_last_id(session, vm_uuid, dom_id):
    vm = session.call("VM.get_by_uuid", vm_uuid)
    if session.call("VM.get_other_config", vm).get(LAST_ID) == str(dom_id):
        return
    session.call("VM.remove_from_other_config", vm, LAST_ID)
    session.call("VM.add_to_other_config", vm, LAST_ID, str(dom_id))


def _last_ids(session):
    """Return the dict of domain id to the UUIDs of the VMs that had it last."""
    found = {}
    for record in session.call("VM.get_all_records_where", _KEPT).values():
        dom_id = record["other_config"].get(LAST_ID, "")
        # Anybody's text: not all that isdigit() takes is a number.
        if re.match("[0-9]{1,5}\\Z", dom_id):
            found.setdefault(int(dom_id), set()).add(record["uuid"])
    return found
