# SPDX-License-Identifier: Apache-2.0
"""Classes with few messages: subjects, secrets, dumps, drivers, repositories."""

from tests.sim.clients import NULL, refusal
from xenapi_driver.sim.doors.wire import Timestamp

ADMIN = "OpaqueRef:0165f154-ba3e-034e-6b27-5d271af109ba"


def test_a_subject_begins_as_administrator_and_gets_other_roles(client):
    record = {"subject_identifier": "S-1-5", "other_config": {"subject-name": "x"}}
    ref = client.call("subject.create", record)
    assert client.call("subject.get_roles", ref) == [ADMIN]
    assert client.call("role.get_name_label", ADMIN) == "pool-admin"
    assert refusal(client, "subject.create", record) == ["SUBJECT_ALREADY_EXISTS"]
    (reader,) = client.call("role.get_by_name_label", "read-only")
    client.call("subject.add_to_roles", ref, reader)
    assert client.call("subject.get_roles", ref) == [ADMIN, reader]
    got = refusal(client, "subject.add_to_roles", ref, reader)
    assert got == ["ROLE_ALREADY_EXISTS"]
    assert refusal(client, "subject.add_to_roles", ref, NULL) == ["ROLE_NOT_FOUND"]
    client.call("subject.remove_from_roles", ref, ADMIN)
    got = refusal(client, "subject.remove_from_roles", ref, ADMIN)
    assert got == ["ROLE_NOT_FOUND"]
    client.call("subject.destroy", ref)
    assert client.call("subject.get_all") == []


def test_roles_are_the_same_on_every_host(client):
    names = {r["name_label"] for r in client.call("role.get_all_records").values()}
    assert names >= {"pool-admin", "vm-power-admin", "vm-operator", "read-only"}
    got = client.call("role.get_by_uuid", ADMIN.removeprefix("OpaqueRef:"))
    assert got == ADMIN


def test_a_secret_is_introduced_once(client):
    uuid = "8e5c7b2e-6d25-4f8a-9d7c-0d9d3f4f2a11"
    ref = client.call("secret.introduce", uuid, "hidden", {"a": "b"})
    assert client.call("secret.get_by_uuid", uuid) == ref
    assert client.call("secret.get_value", ref) == "hidden"
    got = refusal(client, "secret.introduce", uuid, "other", {})
    assert got[0] == "DB_UNIQUENESS_CONSTRAINT_VIOLATION"
    client.call("secret.destroy", ref)
    assert refusal(client, "secret.get_value", ref) == ["HANDLE_INVALID", "secret", ref]


def test_dumps_can_be_removed_but_not_sent(local, sim):
    (host,) = local.call("host.get_all")
    values = {"host": host, "filename": "core", "timestamp": Timestamp("20260101")}
    dump = sim.world.db.create("host_crashdump", values)
    assert local.call("host.get_crashdumps", host) == [dump]
    code = refusal(local, "host_crashdump.upload", dump, "ftp://x", {})[0]
    assert code == "SYSTEM_STATUS_RETRIEVAL_FAILED"
    local.call("host_crashdump.destroy", dump)
    assert local.call("host.get_crashdumps", host) == []
    guest = sim.world.db.create("crashdump", {"VM": NULL, "VDI": NULL})
    local.call("crashdump.destroy", guest)
    assert local.call("crashdump.get_all") == []


def test_a_driver_without_its_hardware_is_not_chosen(local, sim):
    records = local.call("Host_driver.get_all_records")
    driver, record = next((r, v) for r, v in records.items() if len(v["variants"]) > 1)
    variant, other = record["variants"]
    got = refusal(local, "Host_driver.select", driver, variant)
    assert got == ["HOST_DRIVER_NO_HARDWARE", variant]
    sim.world.db.update("Driver_variant", variant, hardware_present=True)
    local.call("Driver_variant.select", variant)
    assert local.call("Host_driver.get_selected_variant", driver) == variant
    stranger = next(r for r in records if r != driver)
    got = refusal(local, "Host_driver.select", stranger, variant)
    assert got == ["INVALID_VALUE", "variant", variant]
    got = refusal(local, "Host_driver.select", driver, NULL)
    assert got == ["HANDLE_INVALID", "Driver_variant", NULL]
    local.call("Host_driver.deselect", driver)
    assert local.call("Host_driver.get_selected_variant", driver) == NULL
    assert other in local.call("Driver_variant.get_all")


def test_there_is_one_sdn_controller(client):
    for arguments, code in (
        (("ssl", "somewhere", "0"), "INVALID_IP_ADDRESS_SPECIFIED"),
        (("ssl", "10.0.0.1", "70000"), "VALUE_NOT_SUPPORTED"),
        (("pssl", "10.0.0.1", "0"), "OPERATION_NOT_ALLOWED"),
        (("pssl", "", "6640"), "OPERATION_NOT_ALLOWED"),
    ):
        assert refusal(client, "SDN_controller.introduce", *arguments)[0] == code
    ref = client.call("SDN_controller.introduce", "ssl", "10.0.0.1", "0")
    record = client.call("SDN_controller.get_record", ref)
    assert (record["address"], int(record["port"])) == ("10.0.0.1", 6640)
    code = refusal(client, "SDN_controller.introduce", "pssl", "", "0")[0]
    assert code == "OPERATION_NOT_ALLOWED"
    client.call("SDN_controller.forget", ref)
    assert client.call("SDN_controller.get_all") == []


def test_updates_come_from_repositories_that_cannot_be_reached(local):
    (pool,) = local.call("pool.get_all")
    places = ("https://up.example.org/b", "https://up.example.org/s")
    got = refusal(local, "pool.sync_updates", pool, False)
    assert got == ["NO_REPOSITORY_ENABLED"]
    ref = local.call("Repository.introduce", "base", "", *places, True, "key.gpg")
    for arguments, error in (
        (("new", "", "nowhere", places[1], True), ["INVALID_BASE_URL", "nowhere"]),
        (("new", "", *places, True, "../key"), ["INVALID_GPGKEY_PATH", "../key"]),
        (("new", "", *places, True), ["REPOSITORY_ALREADY_EXISTS", ref]),
        (
            ("base", "", "http://x", "http://y", True),
            ["REPOSITORY_ALREADY_EXISTS", ref],
        ),
    ):
        assert refusal(local, "Repository.introduce", *arguments) == error
    got = refusal(local, "Repository.set_gpgkey_path", ref, "a/b")
    assert got == ["INVALID_GPGKEY_PATH", "a/b"]
    local.call("pool.add_repository", pool, ref)
    assert local.call("pool.get_repositories", pool) == [ref]
    assert refusal(local, "Repository.forget", ref) == ["REPOSITORY_IS_IN_USE"]
    assert refusal(local, "pool.sync_updates", pool, False) == ["REPOSYNC_FAILED"]
    local.call("pool.remove_repository", pool, ref)
    local.call("Repository.forget", ref)
    bundle = local.call("Repository.introduce_bundle", "bundle", "")
    got = refusal(local, "Repository.introduce_bundle", "another", "")
    assert got == ["BUNDLE_REPOSITORY_ALREADY_EXISTS", bundle]
    got = refusal(local, "pool.set_repositories", pool, [ref])
    assert got == ["HANDLE_INVALID", "Repository", ref]


def test_the_toolstack_counts_its_objects(local):
    (host,) = local.call("host.get_all")
    local.call("Diagnostics.gc_compact", host)
    assert int(local.call("Diagnostics.gc_stats", host)["major_collections"]) > 0
    assert local.call("Diagnostics.db_stats")["host rows"] == "1"
