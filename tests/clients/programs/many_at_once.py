# SPDX-License-Identifier: Apache-2.0
"""Use a host with async-xenapi: many calls at once, and one that waits meanwhile.

    many_at_once.py URL

Prints one JSON object of what it was answered.
"""

import asyncio
import json
import sys
import time

from async_xenapi import AsyncXenAPISession

COPIES = 8


async def refusal(call):
    """Return the text of the error that a call must have."""
    try:
        await call
    except RuntimeError as error:
        return str(error)
    raise AssertionError("not refused")


async def wait_for_events(session, token):
    """Return what one patient event.from tells, and how long it took."""
    began = time.monotonic()
    batch = await getattr(session.xenapi.event, "from")(["vm"], token, 20.0)
    return batch["events"], time.monotonic() - began


async def main(url):
    session = AsyncXenAPISession(url)
    await session.login_with_password("root", "secret")
    xenapi = session.xenapi
    templates = await xenapi.VM.get_by_name_label("Other install media")
    vm = await xenapi.VM.clone(templates[0], "async")
    await xenapi.VM.provision(vm)
    token = (await getattr(xenapi.event, "from")(["vm"], "", 5.0))["token"]
    # The host answers others while one call waits.
    waiting = asyncio.create_task(wait_for_events(session, token))
    await asyncio.sleep(0.1)
    records = await asyncio.gather(
        *(xenapi.VM.get_record(vm) for _ in range(50)),
    )
    quiet = not waiting.done()
    await xenapi.VM.start(vm, False, False)
    events, seconds = await waiting
    copies = await asyncio.gather(
        *(xenapi.VM.snapshot(vm, f"at once {n}", []) for n in range(COPIES))
    )
    answers = {
        "vm": vm,
        "records": records,
        "quiet": quiet,
        "told": {event["ref"]: event["snapshot"]["power_state"] for event in events},
        "seconds": seconds,
        "copies": copies,
        "twice": await refusal(xenapi.VM.start(vm, False, False)),
        "unknown": await refusal(xenapi.VM.levitate(vm)),
        "metrics": await xenapi.VM_metrics.get_all_records(),
    }
    await session.logout()
    bad = AsyncXenAPISession(url)
    answers["wrong"] = await refusal(bad.login_with_password("root", "wrong"))
    await bad.logout()
    print(json.dumps(answers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
