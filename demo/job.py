# SPDX-License-Identifier: Apache-2.0
"""The main job, as the list of its steps.

Each step does one thing through the public APIs and then looks, at the API and
on the host, whether it came true.
"""

from __future__ import annotations

from demo import actions, looks
from demo.step import Step

# The bars of the project: XenAPI requests that a step may take at most.
SPAWN_BAR = 12
DESTROY_BAR = 6

STEPS = (
    Step("upload an image", actions.upload_image, looks.look_at_image),
    Step("flavor, network", actions.create_surroundings, looks.look_at_surroundings),
    Step("boot demo-1", actions.boot("demo-1"), looks.look_at_boot("demo-1")),
    # The image is cached by now.
    Step(
        "boot demo-2 (cached)",
        actions.boot("demo-2"),
        looks.look_at_boot("demo-2"),
        SPAWN_BAR,
    ),
    Step("stop demo-1", actions.stop, looks.look_at_stop),
    Step("start demo-1", actions.start, looks.look_at_run),
    Step("demo-1 shuts itself down", actions.halt_guest, looks.look_at_stop),
    Step("start demo-1 again", actions.start, looks.look_at_run),
    Step("reboot demo-1", actions.reboot("SOFT"), looks.look_at_run),
    Step("hard reboot demo-1", actions.reboot("HARD"), looks.look_at_run),
    Step(
        "delete demo-1",
        actions.delete("demo-1"),
        looks.look_at_delete("demo-1"),
        DESTROY_BAR,
    ),
    Step(
        "delete demo-2",
        actions.delete("demo-2"),
        looks.look_at_delete("demo-2"),
        DESTROY_BAR,
    ),
    Step("the host is clean", actions.nothing, looks.look_at_leftovers),
)
