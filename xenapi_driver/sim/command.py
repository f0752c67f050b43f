# SPDX-License-Identifier: Apache-2.0
"""Run a simulated host from the command line."""

import argparse
import contextlib
import gc
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from xenapi_driver.sim.doors import listening
from xenapi_driver.sim.request_log import RequestLog
from xenapi_driver.sim.simulator import Simulator
from xenapi_driver.sim.start import inventory_file
from xenapi_driver.sim.start.inventory_file import InventoryRefused, PoolPlan
from xenapi_driver.sim.start.start_of_day import GIB
from xenapi_driver.sim.state.ledger import StateRefused
from xenapi_driver.sim.world import Behaviour

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
        type=int,
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
    group.add_argument("--hosts", type=int, default=1, help="hosts in each pool")
    group.add_argument("--pools", type=int, default=1, help="number of pools")
    group.add_argument(
        "--inventory",
        type=Path,
        metavar="FILE",
        help="YAML file that names pools, hosts, networks, SRs, templates and VMs;"
        " --pools and --hosts count where it names none",
    )
    group.add_argument(
        "--dead-after",
        type=float,
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
        type=int,
        default=100,
        metavar="GIB",
        help="size of each host's local SR",
    )
    group.add_argument(
        "--plugins", type=Path, metavar="DIR", help="dom0 plugins to install"
    )
    group.add_argument(
        "--dom0-python", metavar="PROGRAM", help="interpreter that runs the plugins"
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
        type=Path,
        metavar="SOCKET",
        help="socket of a running xenstored for the first host; default: our own",
    )
    group.add_argument(
        "--agent-delay",
        type=float,
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
        type=float,
        default=0.0,
        metavar="MS",
        help="milliseconds that each call takes longer",
    )
    group.add_argument(
        "--admin",
        action="store_true",
        help="open URL/_sim, where tests look and make trouble without a password",
    )


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Serve until SIGTERM or SIGINT; return 1 when what it is given is refused."""
    arguments = option_parser(program).parse_args(argv)
    try:
        _serve(arguments)
    except (InventoryRefused, StateRefused) as refusal:
        print(refusal, file=sys.stderr)
        return 1
    return 0


def _serve(arguments: argparse.Namespace) -> None:
    # Many small objects that live long: looking at all of them for cycles as often as
    # Python does by itself costs more than the calls that make them.
    gc.set_threshold(100_000, 20, 100)
    plans = inventory_file.read(arguments.inventory) if arguments.inventory else ()
    # A pipe, as an Event's lock may be held by what the signal interrupts. The signal
    # may come to any thread: a Python handler would wait for this one to wake up.
    done, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with contextlib.ExitStack() as stack:
        streams: list[TextIO] = [sys.stderr] if arguments.verbose else []
        if arguments.log:
            streams.append(stack.enter_context(arguments.log.open("a")))
        scratch = tempfile.TemporaryDirectory(prefix="xapi-sim-")
        state = arguments.state or Path(stack.enter_context(scratch))
        simulator = _simulator(arguments, state, plans, RequestLog(*streams))
        stack.callback(simulator.close)
        for server, who in listening.open_doors(simulator, arguments):
            print(f"listening on {server.url}{who}", flush=True)
            if server.fingerprint:
                print(f"certificate SHA-256 {server.fingerprint}", flush=True)
        if arguments.socket:
            simulator.serve_unix(arguments.socket, arguments.admin)
            print(f"listening on unix://{arguments.socket.absolute()}", flush=True)
        os.read(done, 1)


def _simulator(
    arguments: argparse.Namespace,
    state: Path,
    plans: tuple[PoolPlan, ...],
    log: RequestLog,
) -> Simulator:
    filled = inventory_file.with_counts(plans, arguments.pools, arguments.hosts)
    machines = sum(len(plan.hosts) for plan in filled)
    return Simulator(
        state,
        keep=arguments.state is not None,
        plugins_dir=arguments.plugins,
        dom0_python=arguments.dom0_python,
        username=arguments.user,
        password=arguments.password,
        hosts=arguments.hosts,
        pools=arguments.pools,
        plans=plans,
        addresses=listening.addresses(arguments.host, machines),
        compute_vm=arguments.compute_vm or bool(arguments.block_device_dir),
        sr_size_bytes=arguments.sr_size_gib * GIB,
        xenstore=arguments.xenstore,
        log=log,
        behaviour=Behaviour(
            agents=not arguments.no_agents,
            agent_delay=arguments.agent_delay,
            latency=arguments.latency / 1000,
            dead_after=arguments.dead_after,
            block_device_dir=arguments.block_device_dir,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
