# SPDX-License-Identifier: Apache-2.0
"""Agreement of the embedded host with the recordings of a real one.

The recordings and the program that scores against them are no part of the project:
where they are not beside it, there is nothing to report.

``python -m bench.conformance URL WHAT UUID`` has a guest stop by itself; it is what
the scoring program is given to call.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

from bench.hosts import running

ROOT = pathlib.Path(__file__).parents[1]
SCORER = ROOT.parent / "shared/tools/conformance/score.py"
SECONDS = 150
# Scenarios of a pool's second host, its death included.
_OF_TWO = "30,31"


def _begin(out: pathlib.Path, url: str, *options: str) -> subprocess.Popen[bytes]:
    act = f"{sys.executable} -m bench.conformance {url}"
    return subprocess.Popen(
        [
            *(sys.executable, str(SCORER), "--url", url, "--password", "secret"),
            *("--json", str(out), "--total-limit", str(SECONDS)),
            *("--trigger", act + " guest {what} {uuid}", *options),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )


def measure() -> dict[str, int]:
    """Return the numbers of steps scored and of those that agree; {} without scorer.

    :raises RuntimeError: the scorer did not come to its end
    """
    if not SCORER.exists():
        return {}
    common = ("--no-agents", "--admin")
    with (
        tempfile.TemporaryDirectory() as folder,
        running(*common) as one,
        running(*common, "--hosts", "2", doors=2) as two,
    ):
        outs = [pathlib.Path(folder, name) for name in ("one.json", "two.json")]
        first, second = two.urls[:2]
        stop = f"{sys.executable} -m bench.conformance {first} host die 2"
        runs = [
            _begin(outs[0], one.urls[0], "--skip", _OF_TWO),
            _begin(
                outs[1], first, "--only", _OF_TWO, "--url2", second, "--stop2", stop
            ),
        ]
        codes = [run.wait(SECONDS + 60) for run in runs]
        if any(codes) or not all(out.exists() for out in outs):
            raise RuntimeError(f"the scorer ended with {codes}")
        found = [json.loads(out.read_text()) for out in outs]
    return {
        "conformance.steps": sum(one["steps"] for one in found),
        "conformance.agree": sum(one["agree"] for one in found),
    }


def main(url: str, kind: str, what: str, which: str) -> None:
    """Ask the test door of a host for something."""
    name = "uuid" if kind == "guest" else "host"
    query = urllib.parse.urlencode({name: which, "what": what})
    with urllib.request.urlopen(f"{url}/_sim/{kind}?{query}", timeout=30) as answer:
        answer.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
