# SPDX-License-Identifier: Apache-2.0
"""One thread that listens to the host for everybody: event.from without end.

A caller that waits for an object takes a :class:`Watch` on it; the loop puts
each new snapshot of that object into it. The thread starts with the first
watch and ends when the session is closed. A connection that breaks only delays
it: the token says where to go on.

Only stdlib threading and queue.Queue are used: both work as native threads and
when eventlet has replaced them (``queue.SimpleQueue`` would not).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from oslo_log import log as logging

from xenapi_driver.xapi import errors

LOG = logging.getLogger(__name__)

Snapshot = Mapping[str, Any]
# What the session gives us: (classes, token, seconds) to event.from's answer.
Poll = Callable[[Sequence[str], str, float], Mapping[str, Any]]

# Seconds that one event.from may block; below any sensible read time-out.
_POLL_SECONDS = 20.0
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


class Gone:
    """The object was deleted."""


GONE = Gone()


class Watch:
    """The changes of one object, in order; a context manager.

    Two changes at short distance may come as one.
    """

    def __init__(self, loop: EventLoop, ref: str) -> None:
        self._loop = loop
        self._ref = ref
        self._changes: queue.Queue[Snapshot | Gone] = queue.Queue()

    def __enter__(self) -> Watch:
        self._loop.add(self._ref, self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.remove(self._ref, self)

    def put(self, change: Snapshot | Gone) -> None:
        """Hand on a change; for the loop."""
        self._changes.put(change)

    def next(self, timeout: float) -> Snapshot | Gone | None:
        """Return the next snapshot; None when there is none in ``timeout``."""
        try:
            return self._changes.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return None


class EventLoop:
    """Runs event.from over ``classes`` and hands its events to watches."""

    def __init__(self, poll: Poll, classes: Sequence[str] = ("task",)) -> None:
        self._poll = poll
        self._classes = tuple(classes)
        self._token = ""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._watches: dict[str, list[Watch]] = {}
        # Events of a task can be here before its caller knows its reference.
        self._known: dict[str, tuple[str, Snapshot]] = {}

    def watch(self, ref: str) -> Watch:
        """Return a watch on the object; it counts from its ``with`` on.

        What is known of the object already comes first.
        """
        return Watch(self, ref)

    def add(self, ref: str, watch: Watch) -> None:
        """Begin to feed a watch, and start the thread if it is the first."""
        with self._lock:
            self._watches.setdefault(ref, []).append(watch)
            if ref in self._known:
                watch.put(self._known[ref][1])
            if not self.running or self._stopping.is_set():
                self._start()

    def remove(self, ref: str, watch: Watch) -> None:
        """Feed a watch no longer."""
        with self._lock:
            left = [other for other in self._watches.get(ref, []) if other is not watch]
            if left:
                self._watches[ref] = left
            else:
                self._watches.pop(ref, None)

    def stop(self) -> None:
        """Ask the thread to end; it does once its event.from returns."""
        self._stopping.set()

    def join(self, timeout: float = 2.0) -> None:
        """Wait for the thread's end, after :meth:`stop`."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        # A new Event for each thread: one that still ends must not be revived.
        self._stopping = threading.Event()
        self._token = ""
        self._known.clear()
        self._thread = threading.Thread(
            target=self._run, args=(self._stopping,), name="xapi-events", daemon=True
        )
        self._thread.start()

    def _run(self, stopping: threading.Event) -> None:
        pause = _FIRST_PAUSE
        while not stopping.is_set():
            try:
                answer = self._poll(self._classes, self._token, _POLL_SECONDS)
            except errors.NotLoggedIn:
                return
            except errors.EventTokenInvalid as exc:
                LOG.info("Reading all objects again: %s", exc)
                self._token = ""
            except errors.XapiError as exc:
                if stopping.is_set():
                    return
                LOG.warning("No events from the host for %(pause).1f s: %(reason)s",
                            {"pause": pause, "reason": exc})  # fmt: skip
                stopping.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                self._take(answer, stopping)
                pause = _FIRST_PAUSE

    def _take(self, answer: Mapping[str, Any], stopping: threading.Event) -> None:
        with self._lock:
            if stopping.is_set():
                return  # another thread may have taken over
            complete = not self._token
            if complete:
                self._known.clear()
            for event in answer["events"]:
                self._take_event(event)
            counts = answer.get("valid_ref_counts", {})
            if not complete and self._missed_deletions(counts):
                # XAPI keeps only some hundred deletions: read all again.
                LOG.info("Some deletions were missed; reading all objects again.")
                self._token = ""
            else:
                self._token = str(answer["token"])

    def _take_event(self, event: Mapping[str, Any]) -> None:
        ref = event["ref"]
        change: Snapshot | Gone = GONE
        if event["operation"] == "del":
            self._known.pop(ref, None)
        else:
            snapshot: Snapshot = event["snapshot"]
            self._known[ref] = (str(event["class"]).lower(), snapshot)
            change = snapshot
        for watch in self._watches.get(ref, ()):
            watch.put(change)

    def _missed_deletions(self, counts: Mapping[str, Any]) -> bool:
        known: dict[str, int] = {}
        for xapi_class, _snapshot in self._known.values():
            known[xapi_class] = known.get(xapi_class, 0) + 1
        live = {name.lower(): int(count) for name, count in counts.items()}
        return any(live.get(name, count) < count for name, count in known.items())
