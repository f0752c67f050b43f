# SPDX-License-Identifier: Apache-2.0
"""What calls to the embedded host cost against the number of its VMs.

A host of its own process is filled with running VMs, and asked over one kept-alive
connection on the loopback interface; a time holds what the client needs to send and
read the bytes, but not to make and unpack them.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.hosts import Client, Host, running
from tests.sim.clients import vif_record, vm_record

SIZES = (10, 100, 1000, 10000)
VMS_ON_A_HOST = 200
_MIB = 1024**2
_ENOUGH_SECONDS, _FEW, _MANY = 1.0, 3, 400
_IDLE_CLIENTS, _IDLE_SECONDS = 20, 2.0
IDLE = "20 idle event.from, share of a processor"

Measures = dict[str, dict[int, float]]


def small_vm(number: int) -> dict[str, Any]:
    """Return a small VM's record."""
    memory = str(128 * _MIB)
    return vm_record(
        name_label=f"bench-{number}",
        memory_static_max=memory,
        memory_dynamic_max=memory,
        memory_dynamic_min=memory,
        memory_static_min=memory,
    )


def fill(client: Client, count: int) -> list[str]:
    """Make ``count`` running VMs, each with a NIC, spread over the hosts."""
    network = client.call("network.get_all")[0]
    hosts = client.call("host.get_all")
    found = []
    for number in range(count):
        vm = client.call("VM.create", small_vm(number))
        client.call("VIF.create", vif_record(vm, network))
        host = hosts[number % len(hosts)]
        client.call("VM.start_on", vm, host, False, False)
        found.append(vm)
    return found


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the median time of a call: of some hundred, or of a second's worth."""
    work()
    times: list[float] = []
    end = time.perf_counter() + _ENOUGH_SECONDS
    while len(times) < _FEW or (time.perf_counter() < end and len(times) < _MANY):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure_calls(client: Client, vms: list[str]) -> dict[str, float]:
    """Return seconds by the name of what was done."""
    middle = vms[len(vms) // 2]
    record = client.call("VM.get_record", middle)
    name, uuid = record["name_label"], record["uuid"]
    bodies = {
        "VM.get_record": client.body("VM.get_record", middle),
        "VM.get_power_state": client.body("VM.get_power_state", middle),
        "VM.get_by_uuid": client.body("VM.get_by_uuid", uuid),
        "VM.get_by_name_label": client.body("VM.get_by_name_label", name),
        "VM.get_all_records_where, a name": client.body(
            "VM.get_all_records_where", f'field "name__label" = "{name}"'
        ),
        "VM.get_all": client.body("VM.get_all"),
        "VM.get_all_records": client.body("VM.get_all_records"),
        "event.from, all VMs": client.body("event.from", ["VM"], "", 0.0),
    }
    found = {
        what: seconds_of(lambda body=body: client.send(body))
        for what, body in bodies.items()
    }
    found["event.from, one change"] = one_change(client, middle)
    found["VM.create and destroy"] = seconds_of(
        lambda: client.call("VM.destroy", client.call("VM.create", small_vm(0)))
    )
    host = record["resident_on"]

    def restart() -> None:
        client.call("VM.hard_shutdown", middle)
        client.call("VM.start_on", middle, host, False, False)

    found["VM.hard_shutdown and start_on"] = seconds_of(restart)
    return found


def one_change(client: Client, vm: str) -> float:
    """Return the time of a look at events that finds one change of one VM."""
    token = client.call("event.from", ["VM"], "", 0.0)["token"]
    client.call("VM.set_name_description", vm, str(time.time()))
    return seconds_of(
        lambda: client.send(client.body("event.from", ["VM"], token, 0.0))
    )


def idle_share(host: Host) -> float:
    """Return the share of a processor that clients cost that only wait for events."""
    clients = [Client(host.urls[0]) for _ in range(_IDLE_CLIENTS)]
    tokens = [one.call("event.from", ["VM"], "", 0.0)["token"] for one in clients]
    waiting = [
        threading.Thread(
            target=one.send,
            args=(one.body("event.from", ["VM"], token, _IDLE_SECONDS + 2),),
        )
        for one, token in zip(clients, tokens, strict=True)
    ]
    for thread in waiting:
        thread.start()
    time.sleep(1)
    before = host.cpu_seconds()
    time.sleep(_IDLE_SECONDS)
    used = host.cpu_seconds() - before
    for thread in waiting:
        thread.join()
    for one in clients:
        one.close()
    return used / _IDLE_SECONDS


def measure(sizes: tuple[int, ...]) -> Measures:
    """Return seconds by what was done and number of VMs; shares where it says so."""
    found: Measures = {}
    for size in sizes:
        hosts = max(1, -(-size // VMS_ON_A_HOST))
        begin = time.perf_counter()
        with running("--hosts", str(hosts)) as host:
            started = time.perf_counter()
            client = Client(host.urls[0])
            vms = fill(client, size)
            filled = time.perf_counter()
            results = {
                f"start of the hosts, {VMS_ON_A_HOST} VMs on each": started - begin,
                "making the VMs, each with a NIC, and starting it": filled - started,
                **measure_calls(client, vms),
                IDLE: idle_share(host),
            }
            client.close()
        for what, value in results.items():
            found.setdefault(what, {})[size] = value
    return found


def ratios(found: Measures) -> dict[str, float]:
    """Return how times grow with the number of VMs: what figures are kept of.

    What answers about one VM is compared from the fewest VMs to the most; what
    answers about all, from the second most to the most.
    """
    kept = {}
    for name, what, from_which in (
        ("get_record", "VM.get_record", 0),
        ("get_by_name_label", "VM.get_by_name_label", 0),
        ("event_one_change", "event.from, one change", 0),
        ("create_destroy", "VM.create and destroy", 0),
        ("restart", "VM.hard_shutdown and start_on", 0),
        ("get_all_records", "VM.get_all_records", -2),
    ):
        sizes = sorted(found.get(what, {}))
        if len(sizes) > 1:
            few, many = sizes[from_which], sizes[-1]
            ratio = found[what][many] / found[what][few]
            kept[f"ratio.{name}_{many}_to_{few}"] = round(ratio, 2)
    return kept
