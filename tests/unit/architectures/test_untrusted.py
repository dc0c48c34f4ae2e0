"""What a folder may make its reader open and parse."""

import os

import pytest

from shoal.architectures.untrusted import (
    check_config_fields,
    file_inside,
    parse_json,
    read_json,
)
from shoal.errors import ConfigError, VerificationError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.safetensors").write_bytes(b"x")
    (tmp_path / "secret.safetensors").write_bytes(b"s")
    return tmp_path / "model"


def test_a_plain_file_is_found_where_it_lies(folder):
    assert file_inside(folder, "a.safetensors") == folder / "a.safetensors"


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "a\0b", "..\\secret", "C:a"],
)
def test_names_with_folders_are_refused(folder, name):
    with pytest.raises(VerificationError, match="named without folders"):
        file_inside(folder, name)


def test_a_link_that_leads_out_is_refused(folder):
    (folder / "b.safetensors").symlink_to("../secret.safetensors")
    with pytest.raises(VerificationError, match="outside of the folder"):
        file_inside(folder, "b.safetensors")
    with pytest.raises(VerificationError, match="outside of the folder"):
        file_inside(folder, "b.safetensors")


def test_a_link_inside_the_folder_is_followed(folder):
    (folder / "b.safetensors").symlink_to("a.safetensors")
    assert file_inside(folder, "b.safetensors").name == "a.safetensors"
    assert file_inside(folder, "b.safetensors").exists()


def test_a_snapshot_of_the_hub_s_cache_is_read_through_its_links(tmp_path):
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "blobs" / "0f").write_bytes(b"x")
    (snapshot / "a.safetensors").symlink_to("../../blobs/0f")
    assert file_inside(snapshot, "a.safetensors") == tmp_path / "blobs" / "0f"
    (snapshot / "more").mkdir()
    (snapshot / "more" / "a").symlink_to("../../../blobs/0f")
    assert file_inside(snapshot / "more", "a") == tmp_path / "blobs" / "0f"
    (tmp_path / "other").write_bytes(b"x")
    (snapshot / "b.safetensors").symlink_to("../../other")
    with pytest.raises(VerificationError, match="outside"):
        file_inside(snapshot, "b.safetensors")


@pytest.mark.parametrize(("name", "message"), [("none", "no such file"), ("loop", "asked to read 'loop'")])
def test_what_leads_nowhere_is_refused(folder, name, message):
    (folder / "loop").symlink_to("loop")
    with pytest.raises(VerificationError, match=message):
        file_inside(folder, name)


def test_a_pipe_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(VerificationError, match="no regular file"):
        file_inside(folder, "pipe")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "'a' stands there twice"),
        (b"{", "damaged"),
        (b"\xff", "damaged"),
        (b"1" * 10_000, "damaged"),
    ],
)
def test_json_that_is_no_good_is_refused(text, message):
    with pytest.raises(VerificationError, match=message):
        parse_json(text, "it")


def test_a_json_file_of_any_size_is_not_read(folder, monkeypatch):
    (folder / "x.json").write_text("[1, 2]")
    assert read_json(folder / "x.json") == [1, 2]
    monkeypatch.setattr("shoal.architectures.untrusted.LARGEST", 5)
    with pytest.raises(VerificationError, match="6 bytes; at most 5"):
        read_json(folder / "x.json")


def nested(value):
    for _ in range(5_000):
        value = [{"inside": value}]
    return value


@pytest.mark.parametrize(
    "fields",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel"},
        {"_attn_implementation_internal": "evil/kernel@main"},
        {"experts_implementation": "evil/kernel"},
        {"text_config": {"attn_implementation": "evil/kernel"}},
        {"parts": [{"_experts_implementation": "evil/kernel"}]},
        {"attn_implementation": {"": "sdpa", "text_config": "evil/kernel"}},
        {"attn_implementation": {"text_config": {"": "sdpa"}}},
        {"attn_implementation": ["sdpa"]},
        {"attn_implementation": 3},
        {"attribute_map": {"a": "_attn_implementation"}, "a": "evil/kernel"},
        {"attribute_map": {"a": "transformers_weights"}, "a": "../x.safetensors"},
        {"transformers_weights": "x.safetensors"},
        {"configuration_files": ["config.4.0.0.json"]},
        nested({"attn_implementation": "evil/kernel"}),
        {"attn_implementation": nested("evil/kernel")},
    ],
)
def test_a_config_that_fetches_code_or_leads_elsewhere_is_refused(fields):
    with pytest.raises(ConfigError, match=r"asked to read here: its .*\. Remove that field"):
        check_config_fields(fields, "here")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"_attn_implementation_autoset": True, "_name_or_path": "some/model"},
        {"attn_implementation": None, "text_config": {"_attn_implementation": "paged|flash_attention_2"}},
        {"attn_implementation": {"": "sdpa", "vision_config": None}, "experts_implementation": "grouped_mm"},
        {"attribute_map": {"hidden_size": "n_embd"}},
        nested({}),
    ],
)
def test_a_config_that_does_not_is_taken(fields):
    check_config_fields(fields, "here")
