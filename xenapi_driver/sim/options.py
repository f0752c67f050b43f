# SPDX-License-Identifier: Apache-2.0
"""The options of the command that runs a simulated host, and what each may be."""

import argparse
import os
import shutil
from pathlib import Path

PROGRAM = "python -m xenapi_driver.sim"

_EPILOG = """\
Examples:
  %(prog)s --port 8080 -v
      one host at http://127.0.0.1:8080, user root, password secret; each request
      is written to the terminal
  %(prog)s --port 8443 --tls --state ~/host
      HTTPS with a certificate of its own; all is kept in ~/host
  %(prog)s --hosts 3 --pools 2 --admin
      two pools of three hosts; tests can make trouble at URL/_sim

It says "listening on URL" for every host when it is ready, and ends on SIGTERM or
Ctrl-C. In a pool all but the first host answer HOST_IS_SLAVE, as they should.
"""

# What a value may be: each returns it or says in one sentence why not.


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def _time(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number from 0 on")
    return value


def _directory(text: str) -> Path:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"there is no directory {text}")
    return Path(text)


def _program(text: str) -> str:
    if shutil.which(text) is None:
        raise argparse.ArgumentTypeError(f"there is no program {text}")
    return text


def _socket(text: str) -> Path:
    if not Path(text).is_socket():
        raise argparse.ArgumentTypeError(f"{text} is no socket")
    return Path(text)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Adds a default where there is one worth telling."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS):
            return text
        return f"{text} (default: %(default)s)"


def option_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="An XAPI host without Xen: real answers, real disk files.",
        epilog=_EPILOG,
        formatter_class=_Help,
    )
    _add_doors(parser.add_argument_group("where it listens"))
    _add_hosts(parser.add_argument_group("what is there"))
    _add_guests(parser.add_argument_group("its guests"))
    _add_watching(parser.add_argument_group("watching and testing"))
    return parser


def _add_doors(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; each host of a pool has its own on the loopback "
        "interface",
    )
    group.add_argument(
        "--port",
        type=_port,
        default=0,
        help="port of the first pool, others follow it; 0 takes a free one",
    )
    group.add_argument(
        "--tls", action="store_true", help="HTTPS with a self-signed certificate"
    )
    group.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="also listen on a unix socket, where no password is asked for",
    )
    group.add_argument("--user", default="root", help="who may log in")
    group.add_argument("--password", default="secret", help="and with what")


def _add_hosts(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--hosts", type=_count, default=1, help="hosts in each pool")
    group.add_argument("--pools", type=_count, default=1, help="number of pools")
    group.add_argument(
        "--inventory",
        type=Path,
        metavar="FILE",
        help="YAML file that names pools, hosts, networks, SRs, templates and VMs;"
        " --pools and --hosts count where it names none",
    )
    group.add_argument(
        "--dead-after",
        type=_time,
        default=600.0,
        metavar="SECONDS",
        help="until a pool takes a host that does not answer for dead",
    )
    group.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="keep everything here and find it again, however it ended"
        " (default: a directory removed at the end)",
    )
    group.add_argument(
        "--sr-size-gib",
        type=_count,
        default=100,
        metavar="GIB",
        help="size of each host's local SR",
    )
    group.add_argument(
        "--plugins", type=_directory, metavar="DIR", help="dom0 plugins to install"
    )
    group.add_argument(
        "--dom0-python",
        type=_program,
        metavar="PROGRAM",
        help="interpreter that runs the plugins",
    )


def _add_guests(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--compute-vm",
        action="store_true",
        help="start with a running VM, for nova-compute to run in",
    )
    group.add_argument(
        "--block-device-dir",
        type=Path,
        nargs="?",
        const=Path("/dev"),
        metavar="DIR",
        help="show disks that are plugged into the compute VM here, as root; "
        "without DIR in /dev (default: nowhere)",
    )
    group.add_argument(
        "--no-agents",
        action="store_true",
        help="guests have an agent only with xenstore_data vm-data/sim-agent=1",
    )
    group.add_argument(
        "--xenstore",
        type=_socket,
        metavar="SOCKET",
        help="socket of a running xenstored for the first host; default: our own",
    )
    group.add_argument(
        "--agent-delay",
        type=_time,
        default=8.0,
        metavar="SECONDS",
        help="time after a boot until a guest's agent makes itself known",
    )


def _add_watching(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="write a line to stderr for each request and step of a task",
    )
    group.add_argument(
        "--log", type=Path, metavar="FILE", help="append those lines to a file"
    )
    group.add_argument(
        "--latency",
        type=_time,
        default=0.0,
        metavar="MS",
        help="milliseconds that each call takes longer",
    )
    group.add_argument(
        "--admin",
        action="store_true",
        help="open URL/_sim, where tests look and make trouble without a password",
    )
