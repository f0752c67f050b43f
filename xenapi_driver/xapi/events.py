# SPDX-License-Identifier: Apache-2.0
"""One thread that listens to the host for everybody: event.from without end.

What it hears is kept as a :class:`~xenapi_driver.xapi.tables.Snapshot`, so that
readers ask us and not the host; who waits for one object takes a :class:`Watch`;
who wants to hear of all changes subscribes. The thread starts with the first of
them and ends when the session is closed. Trouble only delays it: the token says
where to go on, and where events may have got lost all objects are read again and
the differences are told as changes.

Only stdlib threading and queue.Queue are used: both work as native threads and
when eventlet has replaced them (``queue.SimpleQueue`` would not).
"""

from __future__ import annotations

import dataclasses
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from oslo_log import log as logging

from xenapi_driver.xapi import errors
from xenapi_driver.xapi.tables import Kind, Snapshot

LOG = logging.getLogger(__name__)

# Seconds that one event.from may block; below any sensible read time-out.
_POLL_SECONDS = 20.0
# How soon the count of objects is looked at again when it does not agree.
_DOUBT_SECONDS = 0.2
# At least so long lies between two readings of everything for such doubts.
_READ_ALL_SECONDS = 5.0
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
# A wrong password costs the host five seconds, and may be locked out.
_REFUSED_PAUSE = 60.0
# How long the event of a change of ours may take before the host is asked for one.
_NATURAL_SECONDS = 0.5


class Gone:
    """The object was deleted."""


GONE = Gone()


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What became of one object; ``old`` or ``new`` is None where there is none."""

    kind: Kind
    ref: str
    old: Any
    new: Any


Listener = Callable[[Sequence[Change]], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Effect:
    """What a call of ours has done.

    :ivar visible: whether it is in the tables
    :ivar kind: with ``ref``, the object that it was done to
    """

    visible: Callable[[Snapshot], bool]
    kind: Kind
    ref: str


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """A place in the order of events.

    :ivar login: who counts; another coordinator may count otherwise
    """

    text: str
    login: str | None = dataclasses.field(repr=False)

    def comes_after(self, other: Token) -> bool:
        """Tell whether it certainly does."""
        known = self.login is not None and self.login == other.login
        return known and self.text > other.text


_NOWHERE = Token("", None)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What one event.from brought.

    :ivar complete: it tells of every object, and not only of changes
    """

    events: Sequence[Mapping[str, Any]]
    token: Token
    counts: Mapping[str, Any]
    complete: bool


# What the session gives us: (classes, token, seconds) to an answer.
Poll = Callable[[Sequence[str], Token, float], Answer]


class Watch:
    """The changes of one object, in order; a context manager.

    Two changes at short distance may come as one.

    :ivar kind: its class
    :ivar since: the number of the last event.from that was begun before
    """

    def __init__(self, loop: EventLoop, kind: Kind, ref: str) -> None:
        self._loop = loop
        self.kind = kind
        self.since = 0
        self._ref = ref
        self._changes: queue.Queue[Any] = queue.Queue()

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

    def put(self, change: Any) -> None:
        """Hand on a record, or ``GONE``; for the loop."""
        self._changes.put(change)

    def next(self, timeout: float) -> Any:
        """Return the next record or ``GONE``; None when nothing came in time."""
        try:
            return self._changes.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return None


@dataclasses.dataclass(frozen=True, slots=True)
class _Awaited:
    """An effect of ours that the tables may not show yet.

    :ivar poll: the number of the first event.from that certainly tells of it
    """

    effect: Effect
    poll: int


class EventLoop:
    """Runs event.from over classes of records and keeps what it tells.

    :param poll: carries out one event.from
    :param inject: makes the host send an event; returns the token before it
    :param look: returns one object's record as it is now, None when there is none
    :param patience: seconds for which readers wait while the host is not heard
    """

    def __init__(
        self,
        poll: Poll,
        inject: Callable[[Snapshot], Token],
        look: Callable[[Kind, str], Any],
        kinds: Sequence[Kind],
        patience: float,
    ) -> None:
        self._poll = poll
        self._inject = inject
        self._look = look
        self._kinds = {kind.XAPI_CLASS.lower(): kind for kind in kinds}
        self._patience = patience
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._watches: dict[str, list[Watch]] = {}
        self._listeners: list[Listener] = []
        self._forget()

    def _forget(self) -> None:
        self._snapshot = Snapshot(self._kinds.values())
        self._token = _NOWHERE
        self._loaded = False
        self._read_all = False  # with the next event.from
        self._read_all_at = 0.0
        self._doubtful = False
        self._gaps: dict[str, int] = {}
        self._awaited: list[_Awaited] = []
        # Objects of which no event told what a call of ours did to them.
        self._untold: set[tuple[Kind, str]] = set()
        self._doubts = 0  # calls that may have done anything
        self._settled = 0  # how many of these the tables certainly show
        self._polls_begun = 0
        self._polls_answered = 0
        # Since when, and why, the host is not heard.
        self._trouble_since = time.monotonic()
        self._trouble: errors.XapiError | None = None

    # For readers

    def snapshot(self) -> Snapshot:
        """Return the tables, at least as new as every call of ours that returned.

        :raises errors.XapiError: the host was not heard for longer than readers
            wait: what is known may be untrue by now
        """
        if threading.current_thread() is self._thread:
            return self._snapshot  # a listener: it would wait for itself
        with self._news:
            self._ensure_running()
            self._wait_until_heard()
            awaited = list(self._awaited)
            doubts = self._doubts
            if doubts == self._settled:
                self._news.wait_for(lambda: not self._open(awaited), _NATURAL_SECONDS)
                told = not self._open(awaited) and not self._untold
                if told and self._heard():
                    return self._snapshot
        LOG.debug("No event told of a change of ours; asking for one.")
        snapshot = self.barrier()
        with self._news:
            self._settled = max(self._settled, doubts)
            self._give_up(one for one in awaited if self._open([one]))
            untold = set(self._untold)
        # Somebody has changed it again, or it was no change, or its event got lost.
        lost = [
            ref
            for kind, ref in untold
            if self._look(kind, ref) != snapshot[kind].get(ref)
        ]
        with self._news:
            self._untold -= untold
            self._read_all |= bool(lost)
        return self.barrier() if lost else snapshot

    def barrier(self, timeout: float | None = None) -> Snapshot:
        """Return the tables as they are now or later, whoever changed what.

        :param timeout: seconds, as long as readers wait when it is None
        :raises errors.XapiError: the host was not heard in time
        """
        deadline = time.monotonic() + (self._patience if timeout is None else timeout)
        with self._news:
            self._ensure_running()
            self._wait_until_heard()
            snapshot = self._snapshot
            read_all = self._read_all
            begun = self._polls_begun
        token = self._inject(snapshot)
        with self._news:
            while not (
                self._polls_answered > begun
                or (self._token.comes_after(token) and not read_all)
            ):
                left = deadline - time.monotonic()
                if left <= 0 or self._stopping.is_set():
                    raise self._trouble or errors.EventsLate(self._patience)
                self._news.wait(left)
            return self._snapshot

    def expect(self, effect: Effect) -> None:
        """Have readers wait until ``effect`` is visible; after a call of ours."""
        with self._news:
            if self._loaded and self.running and not effect.visible(self._snapshot):
                self._awaited.append(_Awaited(effect, self._polls_begun + 1))

    def doubt(self) -> None:
        """Have readers ask: a call of ours may have changed anything."""
        with self._news:
            self._doubts += 1

    def until(self, visible: Callable[[Snapshot], bool], seconds: float) -> bool:
        """Wait until the tables show something that an event is about to tell of.

        Costs no request.

        :returns: False when it was not told in time
        """
        with self._news:
            self._ensure_running()
            return bool(
                self._news.wait_for(
                    lambda: self._heard() and visible(self._snapshot), seconds
                )
            )

    def glance(self) -> Snapshot:
        """Return the tables as far as they are known, without waiting."""
        return self._snapshot

    def _give_up(self, awaited: Iterable[_Awaited]) -> None:
        """Wait no longer for what an event should have told of; it is looked up."""
        given_up = list(awaited)
        self._awaited = [one for one in self._awaited if one not in given_up]
        self._untold.update((one.effect.kind, one.effect.ref) for one in given_up)

    def _open(self, awaited: Sequence[_Awaited]) -> bool:
        return any(one is other for one in awaited for other in self._awaited)

    def _heard(self) -> bool:
        return self._loaded and self._trouble is None

    def _wait_until_heard(self) -> None:
        while not self._heard():
            left = self._trouble_since + self._patience - time.monotonic()
            if left <= 0 or not self.running:
                raise self._trouble or (
                    errors.EventsLate(self._patience)
                    if self.running
                    else errors.NotLoggedIn()
                )
            self._news.wait(left)

    # For those who wait or listen

    def watch(self, kind: Kind, ref: str) -> Watch:
        """Return a watch on an object; it counts from its ``with`` on.

        What is known of the object already comes first.
        """
        return Watch(self, kind, ref)

    def add(self, ref: str, watch: Watch) -> None:
        """Begin to feed a watch, and start the thread if it is the first."""
        with self._news:
            self._watches.setdefault(ref, []).append(watch)
            self._ensure_running()
            watch.since = self._polls_begun
            known = self._snapshot[watch.kind].get(ref)
            if known is not None:
                watch.put(known)

    def remove(self, ref: str, watch: Watch) -> None:
        """Feed a watch no longer."""
        with self._news:
            left = [other for other in self._watches.get(ref, []) if other is not watch]
            if left:
                self._watches[ref] = left
            else:
                self._watches.pop(ref, None)

    def subscribe(self, listener: Listener) -> None:
        """Have ``listener`` called with the changes of each batch.

        It is called in the loop's thread, so it hands on and returns at once. What
        is there at the beginning is no change.
        """
        with self._news:
            self._listeners = [*self._listeners, listener]
            self._ensure_running()

    def unsubscribe(self, listener: Listener) -> None:
        """Call ``listener`` no longer; one that never was is fine."""
        with self._news:
            self._listeners = [one for one in self._listeners if one != listener]

    # The thread

    def stop(self) -> None:
        """Ask the thread to end; it does once its event.from returns."""
        self._stopping.set()
        with self._news:
            self._news.notify_all()

    def join(self, timeout: float = 2.0) -> None:
        """Wait for the thread's end, after :meth:`stop`."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    @property
    def running(self) -> bool:
        """Whether the thread lives and is not asked to end."""
        thread = self._thread
        return thread is not None and thread.is_alive() and not self._stopping.is_set()

    def _ensure_running(self) -> None:
        if self.running:
            return
        # A new Event for each thread: one that still ends must not be revived.
        self._stopping = threading.Event()
        self._forget()
        self._thread = threading.Thread(
            target=self._run, args=(self._stopping,), name="xapi-events", daemon=True
        )
        self._thread.start()

    def _run(self, stopping: threading.Event) -> None:
        pause = _FIRST_PAUSE
        while not stopping.is_set():
            try:
                self._once(stopping)
                pause = _FIRST_PAUSE
                continue
            except errors.NotLoggedIn:
                stopping.set()
                break
            except errors.EventTokenInvalid as exc:
                LOG.info("Reading all objects again: %s", exc)
                self._read_all = True
                failed: errors.XapiError = exc
            except errors.XapiError as exc:
                failed = exc
            if stopping.is_set():
                break
            self._note_trouble(failed, pause)
            refused = isinstance(failed, errors.AuthenticationFailed)
            longest = _REFUSED_PAUSE if refused else _LONGEST_PAUSE
            stopping.wait(random.uniform(0.5, 1.0) * (longest if refused else pause))
            pause = min(pause * 2, longest)
        with self._news:
            self._news.notify_all()

    def _note_trouble(self, failed: errors.XapiError, pause: float) -> None:
        with self._news:
            if self._trouble is None:
                if self._loaded:
                    self._trouble_since = time.monotonic()
                LOG.warning("No events from the host: %s", failed)
            self._trouble = failed
            self._news.notify_all()
        LOG.debug("The host is asked for events again in %.1f s.", pause)

    def _once(self, stopping: threading.Event) -> None:
        """Ask for events once and take over what comes."""
        with self._news:
            self._polls_begun += 1
            number = self._polls_begun
            if self._read_all:
                self._token, self._read_all = _NOWHERE, False
            # After trouble it is to be known at once that the host is heard again.
            hurry = self._doubtful or self._trouble is not None
            seconds = _DOUBT_SECONDS if hurry else _POLL_SECONDS
        answer = self._poll(tuple(self._kinds), self._token, seconds)
        with self._news:
            if stopping.is_set():
                return  # another thread may have taken over
            told = self._loaded
            changes = self._taken(answer)
            self._polls_answered = number
            self._awaited = [
                one for one in self._awaited if not one.effect.visible(self._snapshot)
            ]
            self._give_up(one for one in self._awaited if number >= one.poll)
            if self._trouble is not None:
                LOG.info("Events come from the host again.")
                self._trouble = None
            self._check_counts(answer)
            if answer.complete:
                self._untold.clear()
                self._look_for_vanished(number)
            listeners = self._listeners if told and changes else []
            self._news.notify_all()
        for listener in listeners:
            try:
                listener(changes)
            except Exception:
                # Its own fault must not make everybody else deaf.
                LOG.exception("A listener to the host's changes failed.")

    def _taken(self, answer: Answer) -> list[Change]:
        """Put the events into the tables and the watches; return what changed."""
        found = self._records(answer)
        changes: list[Change] = []
        for kind, records in found.items():
            table = self._snapshot[kind]
            if answer.complete:
                gone = [ref for ref in table if ref not in records]
                records.update(dict.fromkeys(gone))
            for ref, new in list(records.items()):
                old = table.get(ref)
                if old != new:
                    changes.append(Change(kind, ref, old, new))
                elif answer.complete:
                    # Keep the old one: a new one would say that an event came,
                    # to who waits for that of a change that we do not read.
                    del records[ref]
        self._snapshot = self._snapshot.changed(found)
        self._token = answer.token
        self._loaded = True
        for change in changes:
            for watch in self._watches.get(change.ref, ()):
                watch.put(GONE if change.new is None else change.new)
        return changes

    def _look_for_vanished(self, number: int) -> None:
        """Tell watches of objects that were gone before an event told of them.

        :param number: of the event.from that has told of every object
        """
        for ref, watches in self._watches.items():
            for watch in watches:
                if ref in self._snapshot[watch.kind]:
                    continue
                if number > watch.since:
                    watch.put(GONE)
                else:
                    # It may be newer than the answer.
                    self._read_all = True

    def _records(self, answer: Answer) -> dict[Kind, dict[str, Any]]:
        """Return the records by kind and reference; None for what is deleted.

        :raises errors.BadAnswer: a record lacks what every host has
        """
        found: dict[Kind, dict[str, Any]] = {kind: {} for kind in self._kinds.values()}
        what = "an event"
        try:
            for event in answer.events:
                what = f"a {event['class']} record"
                kind = self._kinds.get(str(event["class"]).lower())
                if kind is None:
                    continue
                ref = event["ref"]
                gone = event["operation"] == "del"
                record = None if gone else kind.from_xapi(ref, event["snapshot"])
                found[kind][ref] = record
        except (KeyError, TypeError, ValueError) as exc:
            reason = f"{what} is not usable: {exc!r}"
            raise errors.BadAnswer("The host", reason) from exc
        return found

    def _check_counts(self, answer: Answer) -> None:
        """Find out whether we know as many objects as there are.

        XAPI keeps only some hundred deletions, and says nothing when one of them
        was too old to be told.
        """
        counts = {name.lower(): int(count) for name, count in answer.counts.items()}
        gaps = {
            name: counts[name] - len(self._snapshot[kind])
            for name, kind in self._kinds.items()
            if name in counts
        }
        if answer.complete:
            # What is missing although everything was read stays so.
            self._gaps = gaps
            self._read_all_at = time.monotonic()
        due = time.monotonic() - self._read_all_at > _READ_ALL_SECONDS
        # The host may count a moment later than it looks for events: look again.
        if self._doubtful and gaps != self._gaps and due:
            LOG.info("Events were missed; reading all objects again.")
            self._read_all = True
        self._doubtful = gaps != self._gaps
