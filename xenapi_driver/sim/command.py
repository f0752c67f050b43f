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
from xenapi_driver.sim.options import PROGRAM, option_parser
from xenapi_driver.sim.request_log import RequestLog
from xenapi_driver.sim.simulator import Simulator
from xenapi_driver.sim.start import inventory_file
from xenapi_driver.sim.start.inventory_file import InventoryRefused, PoolPlan
from xenapi_driver.sim.start.start_of_day import GIB
from xenapi_driver.sim.state.ledger import StateRefused
from xenapi_driver.sim.world import Behaviour


def main(argv: list[str] | None = None, program: str = PROGRAM) -> int:
    """Serve until SIGTERM or SIGINT; return 1 when what it is given is refused."""
    arguments = option_parser(program).parse_args(argv)
    try:
        _serve(arguments)
    except (InventoryRefused, StateRefused, listening.DoorRefused) as refusal:
        print(refusal, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}.", file=sys.stderr)
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
        state = arguments.state
        if state is None:
            scratch = tempfile.TemporaryDirectory(prefix="xapi-sim-")
            state = Path(stack.enter_context(scratch))
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
