"""Headers of safetensors files: what the official library writes is read; what is damaged is refused."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from shoal.architectures.shards import INDEX, read_checkpoint, read_shard
from shoal.errors import VerificationError

TENSORS = {"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "none": torch.ones(0, 5)}


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def tensor(start, stop, dtype="U8", shape=None):
    return {
        "dtype": dtype,
        "shape": [stop - start] if shape is None else shape,
        "data_offsets": [start, stop],
    }


def test_what_the_library_writes_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    shard = read_shard(tmp_path, "model.safetensors")
    assert {name: (entry.dtype, entry.shape) for name, entry in shard.entries.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("BF16", (4,)),
        "none": ("F32", (0, 5)),
    }
    assert shard.metadata == {"format": "pt"}
    assert sum(entry.size for entry in shard.entries.values()) == shard.size - shard.data == 32


@pytest.mark.parametrize(
    "dtype", ["float64", "float16", "int64", "uint8", "bool", "float8_e4m3fn", "float8_e5m2"]
)
def test_dtypes_of_the_library_are_known(tmp_path, dtype):
    save_file({"a": torch.zeros(3, dtype=getattr(torch, dtype))}, tmp_path / "model.safetensors")
    (entry,) = read_shard(tmp_path, "model.safetensors").entries.values()
    assert entry.size == 3 * getattr(torch, dtype).itemsize


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": tensor(0, 4)}, b"123", "take 4 bytes, and 3 are there"),
        ({"a": tensor(0, 4)}, b"12345", "take 4 bytes, and 5 are there"),
        ({"a": tensor(0, 4), "b": tensor(2, 6)}, b"123456", "'b' at byte 2 overlaps"),
        ({"a": tensor(0, 4), "b": tensor(0, 4)}, b"1234", "overlaps"),
        ({"a": tensor(0, 2), "b": tensor(4, 6)}, b"123456", "'b' at byte 4 leaves a gap"),
        ({"a": tensor(1, 4)}, b"1234", "leaves a gap"),
        ({"a": tensor(-4, 0, shape=[4])}, b"1234", r"at the bytes \[-4, 0\]"),
        ({"a": tensor(4, 0, shape=[4])}, b"1234", "takes 4 bytes and has -4"),
        ({"a": tensor(0, 9)}, b"1234", "take 9 bytes, and 4 are there"),
        ({"a": tensor(0, 4, shape=[5])}, b"1234", "takes 5 bytes and has 4"),
        ({"a": tensor(0, 4, "F32", [2])}, b"1234", "takes 8 bytes and has 4"),
        ({"a": tensor(0, 4, shape=[-2, -2])}, b"1234", r"has the shape \[-2, -2\]"),
        ({"a": tensor(0, 4, shape=[True, 4])}, b"1234", "has the shape"),
        ({"a": tensor(0, 4, shape=[10**400])}, b"1234", "has the shape"),
        ({"a": tensor(0, 4, shape=[1] * 101)}, b"1234", "has the shape"),
        ({"a": tensor(0, 4, shape=[2**62] * 100)}, b"1234", "takes 2,432"),
        ({"a": tensor(0, 1, "F4", [1])}, b"1", "takes 1 bytes and has 1"),
        ({"a": tensor(0, 4, "F31")}, b"1234", "unknown dtype 'F31'"),
        ({"a": tensor(0, 4, ["F32"])}, b"1234", "unknown dtype"),
        ({"a": tensor(0, 4) | {"more": 1}}, b"1234", "is not described by dtype"),
        ({"a": [0, 4]}, b"1234", "is not described by dtype"),
        ({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4, 8]}}, b"1234", "at the bytes"),
        ({"__metadata__": {"a": 1}}, b"", "metadata are not text"),
        ({"__metadata__": []}, b"", "metadata are not text"),
        (b"[]  ", b"", "no JSON object"),
        (b'{"a": {}, "a": {}}', b"", "stands there twice"),
        (b'{"a": ' + b"[" * 50_000, b"", "nested too deeply"),
        (b"{]", b"", "damaged"),
    ],
)  # fmt: skip
def test_a_header_that_is_not_right_is_refused(tmp_path, header, data, message):
    write(tmp_path / "model.safetensors", header, data)
    with pytest.raises(VerificationError, match=message):
        read_shard(tmp_path, "model.safetensors")


@pytest.mark.parametrize("length", [0, 1, 100, 100_000_001, 2**64 - 1])
def test_a_header_of_absurd_length_is_refused(tmp_path, length):
    write(tmp_path / "model.safetensors", {}, length=length)
    with pytest.raises(VerificationError, match=f"header would take {length:,} bytes"):
        read_shard(tmp_path, "model.safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"1234567", pickle.dumps({"a": [1] * 50}), b"PK\x03\x04" + bytes(60)]
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(VerificationError, match="no safetensors file"):
        read_checkpoint(tmp_path)


def test_a_pickle_of_weights_is_not_opened(tmp_path):
    write_index(tmp_path, {"a": "pytorch_model.bin"})
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(VerificationError, match=r"only \.safetensors files are read"):
        read_checkpoint(tmp_path)


def write_index(folder, places, **more):
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places} | more))


@pytest.fixture
def sharded(tmp_path):
    save_file({"a": TENSORS["a"]}, tmp_path / "1.safetensors")
    save_file({"b": TENSORS["b"]}, tmp_path / "2.safetensors")
    write_index(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    return tmp_path


def test_several_files_are_one_checkpoint(sharded):
    found = read_checkpoint(sharded)
    assert [shard.name for shard in found.shards] == ["1.safetensors", "2.safetensors"]
    assert set(found.entries) == {"a", "b"}
    assert found.metadata == {"total_size": 1}
    assert found.size == sum(path.stat().st_size for path in sharded.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"a": "1.safetensors"}, None),
        ({"a": "1.safetensors", "b": "1.safetensors"}, "disagree in 1 places: tensor 'b'"),
        ({"a": "1.safetensors", "c": "2.safetensors"}, "disagree in 2 places"),
        ({"a": "1.safetensors", "b": "3.safetensors"}, "no such file"),
        ({"a": "../1.safetensors"}, "named without folders"),
        ({"a": "/1.safetensors"}, "named without folders"),
        ({"a": 1}, "does not say where"),
        (["a"], "does not say where"),
    ],
)
def test_an_index_that_disagrees_with_the_files_is_refused(sharded, places, message):
    write_index(sharded, places)
    if message is None:
        assert set(read_checkpoint(sharded).entries) == {"a"}
        return
    with pytest.raises(VerificationError, match=message):
        read_checkpoint(sharded)


def test_two_names_of_one_file_are_refused(sharded):
    (sharded / "3.safetensors").symlink_to("1.safetensors")
    write_index(sharded, {"a": "1.safetensors", "b": "3.safetensors"})
    with pytest.raises(VerificationError, match="two of its names are one file"):
        read_checkpoint(sharded)


def test_a_folder_without_weights_says_so(tmp_path):
    with pytest.raises(VerificationError, match=r"there is no model\.safetensors"):
        read_checkpoint(tmp_path)


def test_one_file_goes_before_an_index(sharded):
    save_file({"c": TENSORS["a"]}, sharded / "model.safetensors")
    assert set(read_checkpoint(sharded).entries) == {"c"}
