import contextlib
import gzip
import io
import json
import os
import pickle
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plinth.core import onnx
from plinth.core.formats import check_model_file
from plinth.errors import NotFound, RefusedByPolicy


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, payload):
    """A protobuf field: bytes, or an integer as a varint."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def model(*graph_fields, domain=b"", extra=b""):
    graph = b"".join(graph_fields) or field(2, b"graph")
    return field(1, 8) + field(2, b"producer") + field(8, field(1, domain) + field(2, 15)) + field(7, graph) + extra


def safetensors(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def skops(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def check(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    check_model_file(path)


TENSOR = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
EXTERNAL = field(13, field(1, b"location") + field(2, b"../secret"))
# The same message with the value in front of the key and the key's length in two bytes: the byte pattern differs.
EXTERNAL_SPELT_OTHERWISE = field(13, field(2, b"/etc/passwd") + b"\x0a\x88\x00location")

GOOD = {
    "model.onnx": model(),
    "initializer.onnx": model(field(5, field(8, b"w") + field(9, b"\0" * 8) + field(14, 0))),
    "model.safetensors": safetensors(TENSOR, b"\0" * 8),
    "model.skops": skops({"schema.json": "{}", "1.npy": b"x"}),
    "model.txt": b"tree\nversion=v4\n",
    "model.json": b'{"learner": {}}',
}


@pytest.mark.parametrize("name", GOOD)
def test_every_allowed_format_passes(tmp_path, name):
    check(tmp_path, name, GOOD[name])


@pytest.mark.parametrize("length", [0x28, 0x63, 0x5D, 0x7D, 0x280, 0x178])
def test_a_safetensors_header_length_that_looks_like_a_pickle_or_zlib_is_no_reason_to_refuse(tmp_path, length):
    text = json.dumps(TENSOR).encode()
    data = struct.pack("<Q", max(length, len(text))) + text.ljust(length) + b"\0" * 8
    check(tmp_path, "model.safetensors", data)


def test_a_file_kept_under_its_digest_is_checked_by_the_name_it_goes_by(tmp_path):
    path = tmp_path / ("ab" * 32)
    path.write_bytes(GOOD["model.onnx"])
    check_model_file(path, "model.onnx")
    with pytest.raises(RefusedByPolicy, match="not allowed"):
        check_model_file(path)
    with pytest.raises(RefusedByPolicy):
        check_model_file(path, "model.txt")


@pytest.mark.parametrize(
    "suffix", [".pkl", ".pickle", ".joblib", ".pt", ".pkl.gz", ".h5", ".onnx.gz", "", ".py", ".onnx "]
)
def test_a_format_that_is_not_on_the_list_is_refused_whatever_it_holds(tmp_path, suffix):
    with pytest.raises(RefusedByPolicy, match="not allowed"):
        check(tmp_path, f"model{suffix}", GOOD["model.onnx"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".skops", ".txt", ".json"])
def test_a_renamed_pickle_is_refused(tmp_path, suffix, pack, protocol):
    with pytest.raises(RefusedByPolicy):
        check(tmp_path, f"model{suffix}", pack(pickle.dumps({"weights": [1.0] * 40, "f": len}, protocol)))


@pytest.mark.parametrize(
    "data",
    [
        model(field(5, EXTERNAL)),
        model(field(5, EXTERNAL_SPELT_OTHERWISE)),
        model(field(5, field(14, 1))),
        model(field(1, field(5, field(5, EXTERNAL)))),  # a Constant node's tensor
        model(field(1, field(5, field(10, EXTERNAL)))),  # a list of tensors
        model(field(1, field(5, field(6, field(5, EXTERNAL))))),  # a branch of an If
        model(field(1, field(5, field(22, field(1, EXTERNAL))))),  # a sparse tensor
        model(field(15, field(2, EXTERNAL))),
        model(extra=field(20, field(1, field(5, EXTERNAL)))),  # training information
        model(extra=field(25, field(7, field(5, field(5, EXTERNAL))))),  # a function of the model
        model(extra=field(7, field(5, EXTERNAL))),  # a second graph, which a parser merges into the first
    ],
)
def test_onnx_with_external_data_is_refused_wherever_the_tensor_hides(tmp_path, data):
    with pytest.raises(RefusedByPolicy, match="external"):
        check(tmp_path, "model.onnx", data)


def test_onnx_with_operators_of_another_domain_is_refused(tmp_path):
    with pytest.raises(RefusedByPolicy, match=r"com\.microsoft"):
        check(tmp_path, "model.onnx", model(domain=b"com.microsoft"))


def test_onnx_that_the_runtime_would_take_for_its_own_format_is_refused(tmp_path):
    data = field(1, 8) + field(2, b"ORTM") + model()
    assert data[4:8] == b"ORTM"
    with pytest.raises(RefusedByPolicy, match="own format"):
        check(tmp_path, "model.onnx", data)


@given(st.data())
@settings(max_examples=60)
def test_truncated_onnx_is_refused_at_every_length(tmp_path_factory, data):
    whole = model(field(5, field(8, b"w") + field(9, b"\0" * 40)))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(RefusedByPolicy):
        check(tmp_path_factory.mktemp("cut"), "model.onnx", whole[:cut])


def test_deeply_nested_onnx_is_refused(tmp_path):
    graph = b""
    for _ in range(100):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(RefusedByPolicy, match="deeper"):
        check(tmp_path, "model.onnx", model(graph))


def test_a_huge_number_of_fields_stops_the_walk(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "MAX_FIELDS", 1000)
    with pytest.raises(RefusedByPolicy, match="fields"):
        check(tmp_path, "model.onnx", model(field(1, b"") * 2000))


@given(st.binary(max_size=200), st.sampled_from(sorted(GOOD)))
@settings(max_examples=200)
def test_arbitrary_bytes_are_accepted_or_refused_and_nothing_else_happens(tmp_path_factory, data, name):
    folder = tmp_path_factory.mktemp("bytes")
    for content in (data, GOOD[name][: len(data)] + data):
        with contextlib.suppress(RefusedByPolicy):
            check(folder, name, content)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 300_000) + b"[" * 300_000,
        safetensors({"w": {"data_offsets": [0, 16]}}, b"\0" * 8),
        safetensors({"w": {"data_offsets": [4, 8]}}, b"\0" * 8),
        safetensors({"a": {"data_offsets": [0, 8]}, "b": {"data_offsets": [4, 8]}}, b"\0" * 8),
        safetensors({"w": {"data_offsets": "08"}}, b"\0" * 8),
        safetensors({"w": 1}),
        safetensors({"w": {"data_offsets": [8, 0]}}, b"\0" * 8),
    ],
)
def test_a_hostile_safetensors_header_is_refused(tmp_path, data):
    with pytest.raises(RefusedByPolicy):
        check(tmp_path, "model.safetensors", data)


@pytest.mark.parametrize(
    "entries",
    [
        {"1.npy": b"x"},
        {"schema.json": "{}", "../out.npy": b"x"},
        {"schema.json": "{}", "/abs.npy": b"x"},
        {"schema.json": "{}", "..\\out.npy": b"x"},
        {"schema.json": "{}", "data.pkl": b"x"},
        {"schema.json": "{}", "bomb.npy": b"\0" * 10_000_000},
    ],
)
def test_a_hostile_skops_archive_is_refused(tmp_path, entries):
    with pytest.raises(RefusedByPolicy):
        check(tmp_path, "model.skops", skops(entries))


def test_a_symlink_in_an_archive_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("schema.json", "{}")
        link = zipfile.ZipInfo("1.npy")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(RefusedByPolicy, match="outside"):
        check(tmp_path, "model.skops", buffer.getvalue())


@pytest.mark.parametrize("data", [b"[" * 200_000, b"{", b"\xff", b"1", b"null", b""])
def test_json_that_is_no_object_is_refused_however_deep_it_nests(tmp_path, data):
    with pytest.raises(RefusedByPolicy):
        check(tmp_path, "model.json", data)


def test_a_file_that_is_missing_and_a_pipe_that_would_block_are_refused(tmp_path):
    with pytest.raises(NotFound):
        check_model_file(tmp_path / "none.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(RefusedByPolicy, match="regular"):
        check_model_file(tmp_path / "pipe.onnx")
