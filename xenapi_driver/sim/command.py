# SPDX-License-Identifier: Apache-2.0
"""Run a simulated host from the command line."""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from xenapi_driver.sim import inventory_file
from xenapi_driver.sim.doors import listening
from xenapi_driver.sim.inventory_file import InventoryRefused
from xenapi_driver.sim.simulator import Simulator
from xenapi_driver.sim.start_of_day import GIB
from xenapi_driver.sim.world import Behaviour


def option_parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m xenapi_driver.sim",
        description="An XAPI host without Xen: real answers, real disk files.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--tls", action="store_true", help="HTTPS, self-signed")
    parser.add_argument("--user", default="root", help="who may log in")
    parser.add_argument("--password", default="secret", help="and with what")
    parser.add_argument("--hosts", type=int, default=1, help="hosts in each pool")
    parser.add_argument("--pools", type=int, default=1, help="on consecutive ports")
    parser.add_argument(
        "--inventory",
        type=Path,
        metavar="FILE",
        help="YAML file that names pools, hosts, networks, SRs, templates and VMs;"
        " --pools and --hosts count where it names none",
    )
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="MS", help="delay of each call"
    )
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="also listen on a unix socket, where no password is asked for",
    )
    parser.add_argument(
        "--dead-after",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="until a pool takes a host that does not answer for dead",
    )
    parser.add_argument("--state", type=Path, help="default: removed at the end")
    parser.add_argument("--plugins", type=Path, help="dom0 plugins to install")
    parser.add_argument("--dom0-python", help="interpreter of the plugins")
    parser.add_argument(
        "--admin", action="store_true", help="open /_sim/..., for tests"
    )
    parser.add_argument(
        "--sr-size-gib", type=int, default=100, help="size of each host's local SR"
    )
    _add_guests(parser)
    return parser


def _add_guests(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how guests behave."""
    parser.add_argument(
        "--compute-vm",
        action="store_true",
        help="start with a running VM, for nova-compute to run in",
    )
    parser.add_argument(
        "--block-device-dir",
        type=Path,
        nargs="?",
        const=Path("/dev"),
        metavar="DIR",
        help="show disks that are plugged into the compute VM here, as root; "
        "without DIR in /dev; default: nowhere",
    )
    parser.add_argument(
        "--no-agents",
        action="store_true",
        help="guests have an agent only with xenstore_data vm-data/sim-agent=1",
    )
    parser.add_argument(
        "--xenstore",
        type=Path,
        metavar="SOCKET",
        help="socket of a running xenstored for the first host; default: our own",
    )
    parser.add_argument(
        "--agent-delay",
        type=float,
        default=8.0,
        metavar="SECONDS",
        help="time after a boot until a guest's agent makes itself known; default 8",
    )


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return 1 when the inventory file is refused."""
    arguments = option_parser().parse_args(argv)
    try:
        _serve(arguments)
    except InventoryRefused as refusal:
        print(refusal, file=sys.stderr)
        return 1
    return 0


def _serve(arguments: argparse.Namespace) -> None:
    plans = inventory_file.read(arguments.inventory) if arguments.inventory else ()
    filled = inventory_file.with_counts(plans, arguments.pools, arguments.hosts)
    machines = sum(len(plan.hosts) for plan in filled)
    # A pipe, as an Event's lock may be held by what the signal interrupts. The signal
    # may come to any thread: a Python handler would wait for this one to wake up.
    done, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with tempfile.TemporaryDirectory(prefix="xapi-sim-") as scratch:
        simulator = Simulator(
            arguments.state or Path(scratch),
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
            behaviour=Behaviour(
                agents=not arguments.no_agents,
                agent_delay=arguments.agent_delay,
                latency=arguments.latency / 1000,
                dead_after=arguments.dead_after,
                block_device_dir=arguments.block_device_dir,
            ),
        )
        try:
            for server, who in listening.open_doors(simulator, arguments):
                print(f"listening on {server.url}{who}", flush=True)
                if server.fingerprint:
                    print(f"certificate SHA-256 {server.fingerprint}", flush=True)
            if arguments.socket:
                simulator.serve_unix(arguments.socket, arguments.admin)
                print(f"listening on unix://{arguments.socket.absolute()}", flush=True)
            os.read(done, 1)
        finally:
            simulator.close()


if __name__ == "__main__":
    sys.exit(main())
