# SPDX-License-Identifier: Apache-2.0
"""Carry out many calls of plugins in one go, each in a process of its own.

Run by the interpreter under test: ``python many_calls.py PLUGIN_FOLDER``. Each line of
stdin is a JSON list of plugin, function, session and struct of strings; each line of
stdout is a JSON object of what that call's process did. It is forked from this one,
which has read the library already: a call takes milliseconds.

No program of the machine is started: every one is replaced by the scratch root's
``usr/bin/any``.
"""
import json
import os
import pkgutil
import runpy
import select
import signal
import sys
import time
import xmlrpc.client

LONGEST = 20  # seconds of one call


def main(folder):
    sys.path.insert(0, folder)
    import xenapi_dom0
    for module in pkgutil.iter_modules(xenapi_dom0.__path__):
        __import__("xenapi_dom0." + module.name)
    from xenapi_dom0 import commands
    any_program = os.environ["XENAPI_DOM0_ROOT"] + "/usr/bin/any"
    commands.find = lambda name: any_program
    for line in sys.stdin:
        print(json.dumps(_one(folder, *json.loads(line))), flush=True)


def _one(folder, plugin, fn, session, struct):
    pipes = {"out": os.pipe(), "err": os.pipe()}
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_a_call(pipes, os.path.join(folder, plugin), fn, session, struct)
    said = {name: b"" for name in pipes}
    for _read, write in pipes.values():
        os.close(write)
    reading = {read: name for name, (read, _write) in pipes.items()}
    late = False
    while reading:
        ready, _, _ = select.select(list(reading), [], [], 0.5)
        for descriptor in ready:
            data = os.read(descriptor, 65536)
            said[reading[descriptor]] += data
            if not data:
                os.close(descriptor)
                del reading[descriptor]
        if not late and time.monotonic() - began > LONGEST:
            late = True
            os.kill(pid, signal.SIGKILL)
    _pid, status = os.waitpid(pid, 0)
    return {
        "out": said["out"].decode("utf-8", "replace"),
        "err": said["err"].decode("utf-8", "replace")[-4000:],
        "status": status,
        "late": late,
        "seconds": time.monotonic() - began,
    }


def _be_a_call(pipes, plugin, fn, session, struct):
    status = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(pipes["out"][1], 1)
        os.dup2(pipes["err"][1], 2)
        os.closerange(3, 256)
        call = xmlrpc.client.dumps((session, struct), fn)
        sys.argv = [plugin, call]
        # Buffers of their own: those of this process hold what is not ours to say.
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, closefd=False)  # noqa: SIM115
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        runpy.run_path(plugin, run_name="__main__")
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc(file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
