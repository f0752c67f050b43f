# SPDX-License-Identifier: Apache-2.0
"""Write ``build/figures.json``: every number comes from a run made here.

``python -m bench.figures [FILE]``. Ratios are merged from the last benchmark run
(``build/bench.json``) when there is one, agreement with a real host's recordings
where they are beside the project.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
import uuid

from nova.compute import provider_tree

from bench import conformance
from bench.report import BUILD
from tests import breaking, builders, fixtures, troubles
from tests.sim.clients import vm_record


def requests_of_operations(rig: fixtures.Rig) -> dict[str, int]:
    """Run each operation once and return its number of XAPI requests."""
    first, second = (builders.instance(rig.image_id) for _ in range(2))
    counts = {}

    def count(name: str, run, *args, **kwargs) -> None:
        with rig.recording() as made:
            run(*args, **kwargs)
        counts[f"requests.{name}"] = len(made)

    count("spawn_uncached_1vif", rig.spawn, first, active=False)
    count("spawn_cached_1vif", rig.spawn, second, active=False)
    count("stop_clean", rig.driver.power_off, first, timeout=60)
    count("start", rig.driver.power_on, rig.context, first, None)
    count("reboot_hard", rig.driver.reboot, rig.context, first, None, "HARD")
    count("pause", rig.driver.pause, first)
    count("unpause", rig.driver.unpause, first)
    count("get_info", rig.driver.get_info, first)
    image = rig.images.image(identity=str(uuid.uuid4()))
    count("snapshot", rig.driver.snapshot, rig.context, first, image.identity, _told)
    count("destroy_1vif", rig.destroy, first)
    for name, more in {
        "swap": {"swap": 64},
        "ephemeral": {"ephemeral_gb": 1},
        "all_disks": {"swap": 64, "ephemeral_gb": 1},
    }.items():
        larger = builders.instance(rig.image_id, **more)
        count(f"spawn_{name}_1vif", rig.spawn, larger, active=False)
        count(f"destroy_{name}_1vif", rig.destroy, larger)
    return counts


def _told(task_state: str, expected_state: str | None = None) -> None:
    """Take what the compute manager is told of a snapshot."""


def crowd(rig: fixtures.Rig, count: int) -> None:
    """Let the host have ``count`` more servers, all halted."""
    session = rig.sim.session()
    session.xenapi.login_with_password("root", "secret", "1.0", "crowd")
    home = session.xenapi.host.get_all()[0]
    for number in range(count):
        record = vm_record(
            name_label=f"crowd-{count}-{number}",
            affinity=home,
            other_config={"nova_uuid": str(uuid.uuid4())},
        )
        session.xenapi.VM.create(record)
    session.xenapi.session.logout()


def resource_report(rig: fixtures.Rig) -> int:
    """Return the requests of one run of Nova's update_available_resource."""
    with rig.recording() as made:
        (node,) = rig.driver.get_available_nodes()
        tree = provider_tree.ProviderTree()
        tree.new_root(node, str(uuid.uuid4()), generation=0)
        rig.driver.get_available_resource(node)
        rig.driver.update_provider_tree(tree, node)
    return len(made)


def power_sync(rig: fixtures.Rig, servers: int) -> int:
    """Return the requests of one power-state sync over ``servers`` servers."""
    instances = [builders.instance(rig.image_id) for _ in range(servers)]
    for instance in instances:
        rig.spawn(instance, ports=0)
    with rig.recording() as made:
        rig.driver.get_num_instances()
        for instance in instances:
            rig.driver.get_info(instance)
    return len(made)


def faults(rig: fixtures.Rig) -> dict[str, int]:
    """Break builds at every call and count what was left over or lost.

    Lost is a server that was there before and does not run any more.
    """
    bystander = builders.instance(rig.image_id)
    rig.spawn(bystander)
    build = breaking.spawning(rig)
    troubles = {**breaking.TROUBLES, **breaking.SURVIVED}
    broken = [
        one
        for name, trouble in troubles.items()
        for one in breaking.break_calls(rig, build, name, trouble)
    ]
    broken += breaking.break_steps(rig, build)
    return {
        "faults.injected": len(broken),
        "faults.left_over": sum(one.after != one.before for one in broken),
        "faults.lost": int(bystander.uuid not in rig.driver.list_instance_uuids()),
    }


def troubles_of_the_layer(place: pathlib.Path) -> dict[str, int]:
    """Strike calls of the XAPI layer with trouble; count what went wrong."""
    reports = []
    for number, scene in enumerate(troubles.SCENES):
        if scene.name not in ("connect", "read", "VDI.create", "a task of a VM"):
            continue
        house = troubles.House(place / f"house-{number}")
        try:
            every = list(troubles.runs(house, scene))
            chosen = troubles.selection(every, number)
            reports += [troubles.run(house, scene, *one) for one in chosen]
        finally:
            house.close()
    return {
        "faults.layer_injected": len(reports),
        "faults.layer_wrong": sum(bool(one.wrong) for one in reports),
    }


def measure() -> dict[str, float]:
    """Return all figures that this release can measure."""
    fixtures.prepare_nova()
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        rig = fixtures.Rig(place)
        try:
            rig.start()
            rig.image_id = rig.add_image(
                builders.vhd_tarball(builders.vhd_bytes(place))
            )
            found: dict[str, float] = dict(requests_of_operations(rig))
            found["requests.power_sync_10"] = power_sync(rig, 10)
            found.update(faults(rig))
            for servers in (10, 1000):
                crowd(rig, servers)
                name = f"requests.update_available_resource_{servers}"
                found[name] = resource_report(rig)
        finally:
            rig.close()
        # After the rig, whose own thread would count as left over.
        found.update(troubles_of_the_layer(place))
    return found


def main() -> None:
    """Measure, merge the last benchmark's ratios, write the file."""
    target = pathlib.Path(sys.argv[1]) if sys.argv[1:] else BUILD / "figures.json"
    found = {**measure(), **conformance.measure()}
    ratios = BUILD / "bench.json"
    if ratios.exists():
        found.update(json.loads(ratios.read_text()))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    print(target.read_text(), end="")


if __name__ == "__main__":
    main()
