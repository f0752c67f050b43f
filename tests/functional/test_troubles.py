# SPDX-License-Identifier: Apache-2.0
"""The XAPI layer through trouble: some of what ``python -m tests.troubles`` runs.

All troubles at all requests take minutes. Here each scene meets half of the troubles,
each at another of its requests, so that every trouble strikes every kind of request
in some scene.
"""

from __future__ import annotations

import pytest

from tests import troubles


@pytest.mark.parametrize("number", range(len(troubles.SCENES)), ids=troubles.names())
def test_trouble_ends_rightly_and_leaves_nothing(tmp_path, number):
    scene = troubles.SCENES[number]
    house = troubles.House(tmp_path)
    try:
        every = list(troubles.runs(house, scene))
        selected = troubles.selection(every, number)
        reports = [troubles.run(house, scene, *one) for one in selected]
    finally:
        house.close()
    assert len(reports) >= 4
    assert [str(one) for one in reports if one.wrong] == []
