# SPDX-License-Identifier: Apache-2.0
"""Run programs of dom0: no shell, a path of our choosing, a time-out, no orphans.

A program is named without a folder and looked up in the folders of a host, never in
an environment's PATH. It dies with this process, also when that is killed: half a
transfer that goes on without its caller would write into what the next call makes.
"""
import collections
import contextlib
import ctypes
import os
import select
import selectors
import signal
import subprocess
import time

from xenapi_dom0 import failures, paths

TIMEOUT = 60  # seconds
MAX_OUTPUT = 16 * 1024 * 1024  # bytes; guests can fill tables that programs list
MAX_REASON = 1500  # characters of what a program said that a failure repeats
FOLDERS = (
    "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/xensource/bin",
    "/opt/xensource/libexec", "/opt/xensource/sm",
)
# All that a program sees of an environment; the same messages on every host.
ENVIRONMENT = {"PATH": ":".join(FOLDERS[:4]), "LC_ALL": "C"}

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Loaded before a child is forked: loading is not safe between fork and exec.
_LIBC = ctypes.CDLL(None, use_errno=True)

# out and err: text
Output = collections.namedtuple("Output", "code out err")


def find(name):
    """Return the path of the program ``name`` in dom0.

    :raises Failure: COMMAND_MISSING
    """
    # In a test's scratch root a program may be replaced by another.
    for folder in [paths.host_path(folder) for folder in FOLDERS] + list(FOLDERS):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise failures.Failure(failures.COMMAND_MISSING, name)


def run(argv, timeout=TIMEOUT, data=None, environment=None, accept=(0,)):
    """Run a program to its end and return its Output.

    :param argv: name of the program and its arguments, as a list of text
    :param data: bytes for its standard input; None: nothing
    :param environment: dict of what it sees beside :data:`ENVIRONMENT`
    :param accept: exit codes that are no failure
    :raises Failure: COMMAND_MISSING, COMMAND_FAILED with its stderr or where it says
        more than MAX_OUTPUT, TIMED_OUT
    """
    process = start(
        argv, environment=environment,
        stdin=subprocess.PIPE if data is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    try:
        out, err = _said(process, data, argv[0], timeout)
    except subprocess.TimeoutExpired as exc:
        raise failures.Failure(failures.TIMED_OUT, argv[0], timeout) from exc
    finally:
        stop(process)
    output = Output(
        process.returncode, out.decode("utf-8", "replace"),
        err.decode("utf-8", "replace"),
    )
    if output.code not in accept:
        raise failed(argv[0], output.code, output.err)
    return output


def _said(process, data, name, timeout):
    """Feed a program; return what it says on stdout and on stderr, bytes.

    As Popen.communicate, which would take any amount of it into dom0's memory.
    """
    deadline = time.monotonic() + timeout
    left = memoryview(data or b"")
    said = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in said:
            selector.register(stream, selectors.EVENT_READ)
        if process.stdin is not None:
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(name, timeout)
            for key, _events in selector.select(deadline - time.monotonic()):
                if key.fileobj is process.stdin:
                    left = _fed(process.stdin, left)
                    over = not left
                else:
                    piece = os.read(key.fd, 65536)
                    said[key.fileobj] += piece
                    over = not piece
                if over:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
            if sum(map(len, said.values())) > MAX_OUTPUT:
                raise failures.Failure(
                    failures.COMMAND_FAILED, name,
                    "it said more than %d bytes" % MAX_OUTPUT,
                )
    process.wait(max(0, deadline - time.monotonic()))
    return bytes(said[process.stdout]), bytes(said[process.stderr])


def _fed(stream, left):
    """Write as much as a pipe that takes something takes; return the rest."""
    try:
        return left[os.write(stream.fileno(), left[:select.PIPE_BUF]):]
    except BrokenPipeError:  # it will not read the rest
        return left[:0]


def start(argv, environment=None, **streams):
    """Start a program and return its Popen; :func:`stop` ends it in any case.

    :param streams: stdin, stdout and stderr as subprocess.Popen takes them
    :raises Failure: COMMAND_MISSING, COMMAND_FAILED
    """
    path = find(argv[0])
    streams.setdefault("stdin", subprocess.DEVNULL)
    parent = os.getpid()

    def die_with_parent():
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # A parent that is gone already sends nothing any more.
        if os.getppid() != parent:
            os._exit(127)

    try:
        return subprocess.Popen(
            [path] + list(argv[1:]), cwd="/", preexec_fn=die_with_parent,
            start_new_session=True, env=dict(ENVIRONMENT, **(environment or {})),
            **streams
        )
    except (OSError, ValueError) as exc:
        # ValueError: a NUL in an argument.
        raise failures.Failure(
            failures.COMMAND_FAILED, argv[0], getattr(exc, "strerror", None) or exc
        ) from exc


def stop(process):
    """End a program with all that it started, if it still runs, and wait for it."""
    # Not poll(): while nobody has asked for its end, its number is nobody else's, and
    # what it left running can be found by that.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None and not stream.closed:
            with contextlib.suppress(BrokenPipeError):  # it will not read the rest
                stream.close()
    process.wait()


def failed(name, code, err):
    """Return the Failure that tells of a program that ended with ``code``."""
    reason = err.strip()[-MAX_REASON:] or "it said nothing"
    how = "exit code %d" % code if code >= 0 else "killed by signal %d" % -code
    return failures.Failure(failures.COMMAND_FAILED, name, "%s: %s" % (how, reason))
