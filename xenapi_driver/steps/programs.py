# SPDX-License-Identifier: Apache-2.0
"""Programs of the system that nova-compute's own machine must have."""

from __future__ import annotations

import os
import shutil
import subprocess

from oslo_concurrency import processutils

from xenapi_driver import exceptions

# Where mkfs and its like are, which not every service has in its PATH.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_SECONDS = 600
_LIMITS = processutils.ProcessLimits(address_space=4 * 2**30, cpu_time=_SECONDS)


class ProgramFailed(exceptions.UnfitHost):
    """A program ended with an error.

    :ivar said: what it wrote about that
    """

    def __init__(self, name: str, said: str) -> None:
        super().__init__(f"{name} failed on the machine of nova-compute ({said})")
        self.said = said


def check(name: str, package: str, purpose: str) -> None:
    """Refuse what needs a program that is not installed.

    :param name: or its path
    :param package: where Debian has it
    :param purpose: "makes disks", say
    :raises exceptions.UnfitHost: it is not
    """
    if shutil.which(name, path=_PATH) is None:
        raise exceptions.UnfitHost(
            f"{name}, which {purpose}, is not installed on the machine of nova-compute",
            f"install the package {package} there",
        )


def run(
    *words: str,
    accept: tuple[int, ...] = (0,),
    text: str | None = None,
    bounded: bool = False,
) -> str:
    """Run a program, without a shell, and return what it wrote. Blocks.

    :param accept: exit codes that are no failure
    :param text: for its standard input
    :param bounded: in memory and time, as what it reads comes from an image
    :raises ProgramFailed: it could not be run, failed, or took too long
    """
    running: list[subprocess.Popen] = []
    try:
        out, _ = processutils.execute(
            *words,
            check_exit_code=list(accept),
            process_input=text,
            env_variables={**os.environ, "PATH": _PATH, "LC_ALL": "C"},
            timeout=_SECONDS,
            prlimit=_LIMITS if bounded else None,
            on_execute=running.append,
        )
    except subprocess.TimeoutExpired as exc:
        for one in running:
            one.kill()
            one.wait()
        raise ProgramFailed(words[0], f"not done after {_SECONDS} s") from exc
    except (processutils.ProcessExecutionError, OSError) as exc:
        said = getattr(exc, "stderr", "") or getattr(exc, "stdout", "") or str(exc)
        raise ProgramFailed(words[0], " ".join(said.split())[:500]) from exc
    return str(out)
