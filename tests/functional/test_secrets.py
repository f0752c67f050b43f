# SPDX-License-Identifier: Apache-2.0
"""The caller's token goes to dom0, and nowhere else."""

from __future__ import annotations

import logging

import pytest
from nova import exception as nova_exception

from tests import breaking, builders
from xenapi_driver.images import source


def chain(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("method", [None, "host.call_plugin", "SR.scan", "VM.create"])
def test_a_token_is_in_no_log_and_no_error(rig, caplog, method):
    caplog.set_level(logging.DEBUG)
    token = rig.context.auth_token
    if method is None:
        rig.spawn(builders.instance(rig.image_id))
    else:
        rig.sim.faults.add(method, breaking.REFUSAL)
        with pytest.raises(nova_exception.NovaException) as caught:
            rig.spawn(builders.instance(rig.image_id))
        assert not [one for one in chain(caught.value) if token in repr(one)]
    assert "host.call_plugin" in caplog.text
    assert token not in caplog.text
    assert "secret" not in caplog.text.replace("destroy_secrets", "")


def test_a_token_is_not_in_the_picture_of_an_image():
    one = source.ImageSource(
        "id", "vhd", "ovf", None, {"X-Auth-Token": "t0k"}, iter(())
    )
    assert "t0k" not in repr(one)
