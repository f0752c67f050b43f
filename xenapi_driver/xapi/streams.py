# SPDX-License-Identifier: Apache-2.0
"""Whole disks and VMs into and out of a host, as streams of bounded memory.

Each transfer is bound to a task, and only that task says how it went: a host answers
200 before it has read or written a byte, and an answer without an announced length
ends the same way whether it is complete or cut. We make the task, and remove it in
any case. A caller that is interrupted, be it by what its own source, its ``progress``
or its own reading raises, ends the transfer: the connection is closed and the task
cancelled before the exception goes on.

What can be sent anew goes without a task of ours at first, which saves two requests:
the host makes one, names it in its answer, and its end comes as an event. A host may
remove its own tasks before anybody has heard of their end ("XAPI today", section 4);
then all is sent once more, with a task of ours.

Nothing else is repeated once bytes may have moved: who wants that begins anew. A
host that takes or gives nothing for as long as a call would wait for its answer is
given up; one that works on, with all bytes sent, gets as long as it wants.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from oslo_log import log as logging

from xenapi_driver.xapi import errors, handlers, task, tasks
from xenapi_driver.xapi.client import Client, existing
from xenapi_driver.xapi.events import Watch
from xenapi_driver.xapi.vdi import VdiRecord

LOG = logging.getLogger(__name__)

# Called with 0.0 to 1.0 and the bytes so far, also about once a second while
# nothing moves, so that it can end a transfer by raising.
Progress = Callable[[float, int], None]

# What the handlers know ("XAPI today", section 7); QCOW2 since XAPI 25.27.
DISK_FORMATS = ("raw", "vhd", "qcow2")

# How long a task may stay unfinished once its connection has ended.
_SETTLE_SECONDS = 30.0
# Events come at once; without one the host may have forgotten the task.
_QUIET_SECONDS = 2.0
# How often a task is looked at while the host is silent, all bytes sent.
_ASK_SECONDS = 30.0

# Sessions with hosts that remove their own tasks before their end is heard.
_FORGETFUL: weakref.WeakSet[Client] = weakref.WeakSet()

_VHD_FOOTER_SIZE = 512  # VHD spec 1.0, "Hard Disk Footer Format"
_VHD_COOKIE = b"conectix"  # the same, "Cookie"


class SourceMismatch(errors.XapiError):
    """What was to be sent is longer or shorter than its announced length."""

    def __init__(self, announced: int, given: int) -> None:
        super().__init__(announced, given)
        self.announced = announced
        self.given = given

    def __str__(self) -> str:
        relation = "only" if self.given < self.announced else "at least"
        return (
            f"The source of a transfer of {self.announced} bytes gave {relation} "
            f"{self.given}."
        )


class ExportShort(errors.XapiError):
    """The host said that all went well, but the stream lacks its end."""

    def __init__(self, what: str, size: int) -> None:
        super().__init__(what, size)
        self.what = what
        self.size = size

    def __str__(self) -> str:
        return f"{self.what} ended after {self.size} bytes, which are not all of it."


class Readable(Protocol):
    """What is read by pieces, such as a file."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, b"" at the end."""


@dataclasses.dataclass(frozen=True)
class Content:
    """What is to be sent.

    :ivar source: an open binary file, or an iterable of bytes of any size; read
        once, as fast as the host takes it. Or a function that returns an iterable,
        the same bytes each time: this is the one that spares requests
    :ivar length: bytes in all, which hosts want to know before
    :ivar format: one of ``DISK_FORMATS``; of no meaning for a VM
    :ivar in_pieces: a raw disk in the framing of ``formats.pieces``
    """

    source: Readable | Iterable[bytes] | Callable[[], Iterable[bytes]]
    length: int
    format: str = "raw"
    in_pieces: bool = False


@dataclasses.dataclass(frozen=True)
class Transferred:
    """A transfer that went well.

    :ivar value: what its task gave
    :ivar size: bytes
    :ivar digests: hex text by algorithm, of all bytes of the stream
    """

    value: Any
    size: int
    digests: Mapping[str, str]


class _Account:
    """Counts, digests and reports what goes by."""

    def __init__(
        self, total: int, digests: Sequence[str], progress: Progress | None
    ) -> None:
        self._total = total
        self._hashes = {
            name: hashlib.new(name, usedforsecurity=False) for name in digests
        }
        self._progress = progress
        self.size = 0
        self.tail = b""

    def add(self, data: bytes | memoryview) -> None:
        for one in self._hashes.values():
            one.update(data)
        self.size += len(data)
        self.tail = (self.tail + bytes(data[-_VHD_FOOTER_SIZE:]))[-_VHD_FOOTER_SIZE:]
        # A socket that is always ready would keep other greenlets waiting.
        time.sleep(0)
        self.beat()

    def beat(self) -> None:
        if self._progress is not None:
            # Complete is what the task calls so, not the last byte.
            share = self.size / self._total if self._total else 0.0
            self._progress(min(0.99, share), self.size)

    def closed(self, value: Any) -> Transferred:
        if self._progress is not None:
            self._progress(1.0, self.size)
        digests = {name: one.hexdigest() for name, one in self._hashes.items()}
        return Transferred(value, self.size, digests)


class _Transfer:
    """One request to a handler and the task that it is bound to.

    As a context it begins the transfer, and gives it up unless it had an outcome.
    """

    def __init__(
        self,
        session: Client,
        request: handlers.Request,
        account: _Account,
        ours: bool = True,
    ) -> None:
        """:param ours: the task is to be made by us, not by the host"""
        self._session = session
        self._request = request
        self._ours = ours
        self._task = ""
        self._talk: handlers.Conversation | None = None
        self._watching = contextlib.ExitStack()
        self._watch: Watch | None = None
        self.account = account

    def __enter__(self) -> _Transfer:
        if self._ours:
            self._task = _new_task(self._session, str(self._request))
        try:
            self._talk = self._answered()
            if not self._ours:
                self._watch_the_hosts(self._talk)
        except BaseException:
            self._give_up()
            raise
        return self

    def _watch_the_hosts(self, talk: handlers.Conversation) -> None:
        self._task = talk.headers.get("Task-id", "")
        if not self._task:
            raise errors.TaskLost(str(self._request))
        watch = self._session.events.watch(task.TaskRecord, self._task)
        self._watch = self._watching.enter_context(watch)

    def _answered(self) -> handlers.Conversation:
        # Our own host is the likeliest to have the SR; else it redirects.
        own = self._session.host_ref
        if not self._ours:
            return handlers.ask(self._session, self._request, own)
        try:
            return handlers.ask(self._session, self._bound(), own)
        except errors.HandleInvalid as exc:
            if exc.params != ("task", self._task):
                raise
            # A toolstack that has just been restarted forgot it; nothing began.
            self._task = _new_task(self._session, str(self._request))
            return handlers.ask(self._session, self._bound(), own)

    def _bound(self) -> handlers.Request:
        arguments = {**self._request.arguments, "task_id": self._task}
        return dataclasses.replace(self._request, arguments=arguments)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watching.close()
        if self._task:
            self._give_up()

    @property
    def talk(self) -> handlers.Conversation:
        """The connection, once it is begun."""
        if self._talk is None:
            raise errors.NotLoggedIn()
        return self._talk

    def outcome(self, lost: errors.ConnectionLost | None = None) -> Any:
        """Return what the task gave, now that the connection has ended.

        :param lost: how it ended, if that was no good end
        :raises XapiFailure: the task failed
        :raises TaskLost: the host has forgotten the task
        :raises ConnectionLost: the task does not end
        """
        self.talk.close()
        ref, self._task = self._task, ""
        session, what = self._session, str(self._request)
        long, quiet = _SETTLE_SECONDS, _QUIET_SECONDS
        try:
            if self._watch is not None:
                watch = self._watch
                return tasks.heard(
                    session, watch, ref, what, timeout=long, quiet=quiet
                )
            return tasks.follow(session, ref, what, timeout=long, quiet=quiet)
        except errors.TaskTimeout as exc:
            reason = "the host does not say how the transfer ended"
            raise lost or errors.ConnectionLost(self.talk.url, reason) from exc

    def wait_for_host(self) -> None:
        """Wait until the host hangs up, as it does when it has dealt with all."""
        looked = time.monotonic()
        while not self.talk.ended():
            self.account.beat()
            if time.monotonic() - looked > _ASK_SECONDS:
                looked = time.monotonic()
                if self._status() not in ("pending", "cancelling"):
                    return

    def _status(self) -> str:
        try:
            return str(self._session.call("task.get_status", self._task))
        except errors.HandleInvalid as exc:
            raise errors.TaskLost(str(self._request)) from exc

    def _give_up(self) -> None:
        """Close the connection, cancel the task and remove it. Never raises."""
        ref, self._task = self._task, ""
        if self._talk is not None:
            self._talk.close()
        if not ref:
            return
        try:
            if self._talk is not None:
                tasks.follow(self._session, ref, str(self._request), timeout=0.0)
                return
            # No handler works on it, so that none would ever end it: a pending
            # one would stay for ever.
            with contextlib.suppress(errors.XapiFailure):
                self._session.call("task.set_status", ref, "cancelled")
            self._session.call("task.destroy", ref)
        except errors.XapiError as exc:
            LOG.debug("%(request)s was given up. %(reason)s",
                      {"request": self._request, "reason": exc})  # fmt: skip


def _new_task(session: Client, what: str) -> str:
    """Return a pending task, known again by its name should its answer get lost."""
    label = f"{what} {uuid.uuid4()}"
    try:
        return task.create(session, label, session.signature)
    except errors.XapiFailure:
        _drop_labelled(session, label)
        raise


def _drop_labelled(session: Client, label: str) -> None:
    """Remove a task that the host made before it failed: nothing would ever end it."""
    try:
        for one in session.records[task.TaskRecord].values():
            if one.name_label == label:
                session.call("task.set_status", one.ref, "cancelled")
                task.destroy(session, one.ref)
    except errors.XapiError as exc:
        # The caller raises what came first; this is only its clean-up.
        LOG.warning("A task may be left on the host, %(task)s: %(reason)s",
                    {"task": label, "reason": exc})  # fmt: skip


# in


def import_disk(
    session: Client,
    vdi: str,
    content: Content,
    *,
    digests: Sequence[str] = (),
    progress: Progress | None = None,
) -> Transferred:
    """Write an image into a disk that exists, is large enough and not in use.

    What the image does not hold keeps its content: a short raw one leaves the rest
    of the disk as it is, a VHD or QCOW2 what it has no blocks for. Blocks.

    :param vdi: reference or UUID
    :param digests: of hashlib, such as ``("sha256",)``, over the stream
    :returns: with the disk's reference as value
    :raises VdiInUse: somebody has the disk plugged
    :raises SrFull: no room
    :raises XapiFailure: as the task failed; ``VDI_IO_ERROR`` for a stream that is
        damaged, larger than the disk, or was cut
    :raises SourceMismatch: the source is not as long as announced
    :raises ConnectionLost: the host said no more, or took nothing for too long
    :raises TaskLost: the host has forgotten the transfer
    :raises ValueError: no such format
    """
    _check_format(content.format)
    arguments = {"vdi": vdi, "format": content.format}
    if content.in_pieces:
        arguments["chunked"] = "true"
    request = handlers.Request(
        "PUT", "/import_raw_vdi", arguments, length=content.length
    )
    return _sent(session, request, content, digests, progress)


def import_vm(
    session: Client,
    sr: str,
    content: Content,
    *,
    digests: Sequence[str] = (),
    progress: Progress | None = None,
) -> Transferred:
    """Make VMs from an XVA archive, their disks on an SR. Blocks.

    :param sr: reference
    :returns: with a list of the VMs' references as value
    :raises XapiFailure: and all else, as :func:`import_disk`
    """
    request = handlers.Request("PUT", "/import", {"sr_id": sr}, length=content.length)
    return _sent(session, request, content, digests, progress)


def _sent(
    session: Client,
    request: handlers.Request,
    content: Content,
    digests: Sequence[str],
    progress: Progress | None,
) -> Transferred:
    if callable(content.source) and session not in _FORGETFUL:
        account = _Account(content.length, digests, progress)
        try:
            return _sent_once(_Transfer(session, request, account, False), content)
        except errors.TaskLost as exc:
            # One that forgets each end would be sent everything twice for ever.
            _FORGETFUL.add(session)
            LOG.info("%(request)s is repeated. %(reason)s",
                     {"request": request, "reason": exc})  # fmt: skip
    account = _Account(content.length, digests, progress)
    return _sent_once(_Transfer(session, request, account), content)


def _sent_once(beginning: _Transfer, content: Content) -> Transferred:
    account = beginning.account
    pieces = _pieces(content)
    with beginning as transfer:
        lost: errors.ConnectionLost | None = None
        for piece in pieces:
            try:
                transfer.talk.write(piece, account.beat)
            except handlers.Stalled:
                raise
            except errors.ConnectionLost as exc:
                lost = exc
            account.add(piece)
            if lost is not None:
                break
        else:
            transfer.wait_for_host()
        value = transfer.outcome(lost)
        # A host hangs up early where it has seen enough, and that is all right;
        # the digests are still of the whole.
        for piece in pieces:
            account.add(piece)
    return account.closed(value)


def _pieces(content: Content) -> Iterator[memoryview]:
    """Give the content in pieces of bounded size.

    :raises SourceMismatch: it is longer or shorter than announced
    """
    given = 0
    source = content.source
    for data in source() if callable(source) else _read(source):
        given += len(data)
        if given > content.length:
            raise SourceMismatch(content.length, given)
        view = memoryview(data)
        for at in range(0, len(view), handlers.PIECE):
            yield view[at : at + handlers.PIECE]
    if given < content.length:
        raise SourceMismatch(content.length, given)


def _read(source: Readable | Iterable[bytes]) -> Iterator[bytes]:
    if isinstance(source, Iterable) and not hasattr(source, "read"):
        yield from source
        return
    while data := source.read(handlers.PIECE):
        yield data


# out


class Export:
    """A stream out of a host: an iterable of bytes, once.

    :ivar result: what came, once all of it has; None before
    """

    def __init__(
        self, transfer: _Transfer, complete: Callable[[_Account], bool]
    ) -> None:
        self._transfer = transfer
        self._complete = complete
        self.result: Transferred | None = None

    def __iter__(self) -> Iterator[bytes]:
        """Give the bytes; it ends only when the task has ended well.

        :raises XapiFailure: the task failed, so that what came is of no use
        :raises ConnectionLost: cut, or nothing came for too long
        :raises ExportShort: the host calls it a success, but it is not all
        :raises TaskLost: the host has forgotten the transfer
        """
        transfer, account = self._transfer, self._transfer.account
        lost: errors.ConnectionLost | None = None
        while lost is None:
            try:
                data = transfer.talk.read(account.beat)
            except handlers.Stalled:
                raise
            except errors.ConnectionLost as exc:
                lost = exc
                continue
            if not data:
                break
            account.add(data)
            yield data
        value = transfer.outcome(lost)
        if lost is not None:
            raise lost
        if not self._complete(account):
            raise ExportShort("The export", account.size)
        self.result = account.closed(value)

    def save(self, file: BinaryIO) -> Transferred:
        """Write all of it to a file, and return what it was.

        :raises XapiError: as iteration does
        """
        for data in self:
            file.write(data)
        if self.result is None:
            raise ValueError("An export can be read once.")
        return self.result


@contextlib.contextmanager
def export_disk(
    session: Client,
    vdi: str,
    *,
    format: str = "raw",
    base: str | None = None,
    digests: Sequence[str] = (),
    progress: Progress | None = None,
) -> Iterator[Export]:
    """Give the content of a disk, which nobody may write to meanwhile::

        with streams.export_disk(session, vdi, format="vhd") as export:
            export.save(file)

    Memory stays bounded: the host waits while nobody reads. Leaving before the
    end cancels the transfer. Progress is exact for raw alone; a VHD or QCOW2 has
    fewer bytes than the disk, against whose size it is measured.

    :param vdi: reference
    :param base: reference of a disk: only what differs from it is given, as a VHD
        or QCOW2 that needs it
    :raises XapiFailure: the host refused
    :raises ValueError: no such format, or a base with raw
    """
    _check_format(format)
    if base is not None and format == "raw":
        raise ValueError("A raw export cannot leave out what a base has.")
    size = existing(session, VdiRecord, vdi).virtual_size
    arguments = {"vdi": vdi, "format": format}
    if base is not None:
        arguments["base"] = base
    request = handlers.Request("GET", "/export_raw_vdi", arguments)

    def complete(account: _Account) -> bool:
        if format == "raw":
            return account.size == size
        return format != "vhd" or account.tail.startswith(_VHD_COOKIE)

    with _Transfer(session, request, _Account(size, digests, progress)) as transfer:
        yield Export(transfer, complete)


@contextlib.contextmanager
def export_vm(
    session: Client,
    vm: str,
    *,
    digests: Sequence[str] = (),
    progress: Progress | None = None,
) -> Iterator[Export]:
    """Give a halted VM and its disks as an XVA archive; see :func:`export_disk`.

    How large it gets nobody knows before: progress is 0.0 until it is 1.0.

    :param vm: reference
    :raises XapiFailure: the host refused
    """
    request = handlers.Request("GET", "/export", {"ref": vm})
    with _Transfer(session, request, _Account(0, digests, progress)) as transfer:
        yield Export(transfer, lambda account: account.size > 0)


def _check_format(name: str) -> None:
    if name not in DISK_FORMATS:
        known = ", ".join(DISK_FORMATS)
        raise ValueError(f"{name} is no format for a disk: it is one of {known}.")
