# SPDX-License-Identifier: Apache-2.0
"""From error codes to exceptions that say what is wrong, and no more."""

import pickle

import pytest

from xenapi_driver.xapi import errors


def test_each_code_becomes_its_class():
    failure = errors.from_failure(
        ["VM_BAD_POWER_STATE", "OpaqueRef:1", "halted", "running"], "VM.start"
    )
    assert type(failure) is errors.VmBadPowerState
    assert failure.code == "VM_BAD_POWER_STATE"
    assert failure.params == ("OpaqueRef:1", "halted", "running")
    assert failure.call == "VM.start"


def test_unknown_code_loses_nothing():
    failure = errors.from_failure(["MAC_INVALID", "zz"], "VIF.create")
    assert type(failure) is errors.XapiFailure
    assert str(failure) == "VIF.create was refused: MAC_INVALID (zz)."


@pytest.mark.parametrize("code", ["SR_FULL", "SR_BACKEND_FAILURE_44"])
def test_full_sr_is_one_class(code):
    failure = errors.from_failure([code, "", "No space", ""], "VDI.create")
    assert isinstance(failure, errors.SrFull)
    assert str(failure) == "VDI.create failed: the SR has no room left (No space)."


def test_other_backend_failures_are_one_class():
    failure = errors.from_failure(["SR_BACKEND_FAILURE_181", "", "x", ""], "SR.scan")
    assert isinstance(failure, errors.SrBackendFailure)


def test_no_description_is_tolerated():
    assert errors.from_failure([], "VM.start").code == "INTERNAL_ERROR"


def test_no_code_belongs_to_two_classes():
    codes = [c for cls in errors.XapiFailure.__subclasses__() for c in cls.codes]
    assert sorted(codes) == sorted(set(codes))


def test_secrets_are_masked_everywhere():
    failure = errors.from_failure(
        ["INTERNAL_ERROR", "session OpaqueRef:secret-ref", "pw hunter22"],
        "VM.start",
        ("OpaqueRef:secret-ref", "hunter22"),
    )
    for text in (str(failure), repr(failure), str(failure.params)):
        assert "secret-ref" not in text
        assert "hunter22" not in text


def test_plugin_crash_shows_only_the_last_line():
    failure = errors.from_failure(
        [
            "XENAPI_PLUGIN_FAILURE",
            "non-zero exit",
            "",
            "Traceback\n  token=abc\nOSError: disk on fire\n",
        ],
        "host.call_plugin",
    )
    assert "disk on fire" in str(failure)
    assert "token" not in str(failure)


def test_wrong_password_names_user_and_options():
    failure = errors.from_failure(
        ["SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"],
        "session.login_with_password",
    )
    assert "'root'" in str(failure)
    assert "connection_password" in str(failure)


@pytest.mark.parametrize(
    "error",
    [
        errors.HostUnreachable("https://h", "refused"),
        errors.CertificateRefused("https://h", "self-signed", "AA:BB"),
        errors.ConnectionLost("https://h", "reset", begun=False),
        errors.PluginTooOld("2.1", "3.0"),
        errors.PluginError("NO_SPACE", ["/sr"], "glance.download_vhd"),
        errors.SrFull("SR_FULL", ["1", "2"], "VDI.create"),
        errors.NotUnique("VM", "x", 2),
        errors.NotAMember(frozenset({"192.0.2.1", "192.0.2.2"})),
    ],
)
def test_errors_survive_pickling_and_are_sentences(error):
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert str(error).endswith(".")
    assert vars(again) == vars(error)
