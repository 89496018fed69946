"""Which reader a file is for, foreign readers, and what is asked of every tensor map."""

from __future__ import annotations

import hashlib
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError, RegistryError
from ocimodel.spec import canonical
from ocimodel.spec.tensor import Tensor, TensorMap
from ocimodel.weights import maps
from ocimodel.weights.facts import read_facts
from ocimodel.weights.maps import read_tensor_map
from ocimodel.weights.metadata import EVERYTHING, MAX_BYTES, MAX_VALUE_BYTES, bounded
from tests.weights import SEEDS, field, onnx_external, onnx_model, onnx_tensor, over, zipped

Install = Callable[[str, str], None]


def map_of(data: bytes, name: str = "file") -> TensorMap | None:
    return read_tensor_map(over(data), len(data), name)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install("plug", code)`: the module as an installed package with a reader of that name."""

    def installed(name: str, code: str) -> None:
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[ocimodel.weights]\n{name} = {name}_reader\n")
        (site / f"{name}_reader.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(site)
        maps.readers.cache_clear()

    yield installed
    maps.readers.cache_clear()
    for module in [name for name in sys.modules if name.endswith("_reader")]:
        del sys.modules[module]


def test_ours_come_by_entry_points() -> None:
    assert [name for name, _ in maps.readers()] == ["gguf", "onnx", "safetensors", "torch"]


@pytest.mark.parametrize("kind", ["safetensors", "gguf", "onnx", "torch"])
def test_each_format_is_told_by_its_content(kind: str) -> None:
    found = map_of(SEEDS[kind]()[0])
    assert found is not None
    assert found.format == kind
    assert found.tensors
    assert [t.offset for t in found.tensors] == sorted(t.offset for t in found.tensors)


def test_what_nobody_knows_is_raw() -> None:
    for data in (b"", b"text", b"\x89HDF\r\n\x1a\n", zipped({"a.txt": b""}), b"\x80\x02}."):
        assert map_of(data) is None
    assert map_of(b"\x89HDF\r\n\x1a\n", "model.safetensors") is None


def test_a_header_that_begins_like_a_pickle_is_no_pickle() -> None:
    """Of 8,192,640 bytes: the length's first three are a pickle's."""
    length = int.from_bytes(b"\x80\x02}\0\0\0\0\0", "little")
    data = length.to_bytes(8, "little") + b"{}".ljust(length)
    for name in ("model.safetensors", "model"):
        found = map_of(data, name)
        assert found is not None
        assert found.format == "safetensors"


FOREIGN = """
    from ocimodel.weights import Match, Tensor, TensorMap

    def recognises(head, size, name):
        return Match.CERTAIN if head.startswith(b"MINE") else Match.NO

    def read(read_at, size):
        {body}
"""
ONE = "return TensorMap('mine', {'n': 1}, (Tensor('t', 'U8', (2,), 4, 2),))"


def test_a_foreign_reader_comes_by_the_same_door(install: Install) -> None:
    install("plug", FOREIGN.format(body=ONE))
    assert map_of(b"MINE12") == TensorMap("mine", {"n": 1}, (Tensor("t", "U8", (2,), 4, 2),))
    facts = read_facts(over(b"MINE12"), 6, "x")
    assert facts is not None
    assert (facts.format, facts.n_parameters) == ("mine", 2)
    assert map_of(SEEDS["gguf"]()[0]) is not None


BROKEN = {
    "raises": "return {}['missing']",
    "gives something else": "return 5",
    "a tensor outside": "return TensorMap('mine', {}, (Tensor('t', 'U8', (9,), 4, 9),))",
    "a negative offset": "return TensorMap('mine', {}, (Tensor('t', 'U8', (2,), -2, 2),))",
    "a name that is no text": (
        "return TensorMap('mine', {}, (Tensor(chr(0xd800), 'U8', (2,), 4, 2),))"
    ),
    "a path above": "return TensorMap('mine', {}, (Tensor('t', 'U8', (2,), 4, 2, '../x'),))",
    "itself": "return TensorMap('mine', {}, (Tensor('t', 'U8', (2,), 4, 2, 'x.bin'),))",
    "metadata that is no JSON": "return TensorMap('mine', {'a': float('nan')}, ())",
    "metadata without names": "return TensorMap('mine', {1: 2}, ())",
    "metadata in a circle": "a = {}; a['a'] = a; return TensorMap('mine', a, ())",
    "its own InputError": (
        "from ocimodel.errors import InputError; raise InputError('truncated', hint='h')"
    ),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_what_a_foreign_reader_does_wrong_is_an_input_error(install: Install, body: str) -> None:
    install("plug", FOREIGN.format(body=body))
    with pytest.raises(InputError, match=r"^sub/x\.bin: "):
        read_tensor_map(over(b"MINE12"), 6, "sub/x.bin")


def test_a_failed_reader_is_named_even_where_it_was_not_certain(install: Install) -> None:
    install("plug", FOREIGN.format(body="return {}['missing']").replace("CERTAIN", "MAYBE"))
    with pytest.raises(InputError, match=r"'plug' failed: KeyError: 'missing'") as caught:
        map_of(b"MINE12")
    assert "plugin" in caught.value.hint


def test_a_reader_that_is_not_certain_may_be_wrong(install: Install) -> None:
    body = "from ocimodel.errors import InputError; raise InputError('no')"
    install("plug", FOREIGN.format(body=body).replace("CERTAIN", "MAYBE"))
    assert map_of(b"MINE12") is None


def test_a_reader_that_cannot_be_loaded_is_named(install: Install) -> None:
    install("plug", "import no_such_module")
    with pytest.raises(InputError, match="'plug' failed: ModuleNotFoundError"):
        map_of(b"MINE12")


def test_the_disk_and_the_network_are_not_the_readers_fault(install: Install) -> None:
    install("plug", FOREIGN.format(body="return read_at(size, 1)"))
    for failure in (OSError("disk"), RegistryError("network")):

        def read_at(offset: int, length: int, failure: Exception = failure) -> bytes:
            if offset:
                raise failure
            return b"MINE12"[:length]

        with pytest.raises(type(failure)) as caught:
            read_tensor_map(read_at, 6, "x")
        assert caught.value is failure


def test_external_data_in_itself_or_in_another_model_is_refused() -> None:
    def model(location: str) -> bytes:
        graph = field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external(location)))
        return onnx_model(graph)

    found = map_of(model("weights/./m.data"), "sub/m.onnx")
    assert found is not None
    assert found.tensors[0].file == "weights/m.data"
    for location, name in [
        ("m.bin", "sub/m.bin"),
        ("./m.onnx", "m.onnx"),
        ("other.ONNX", "m.onnx"),
    ]:
        data = model(location)
        # a name that promises nothing: the file is then just not ours
        if name.endswith(".onnx"):
            with pytest.raises(InputError, match="external data"):
                map_of(data, name)
        else:
            assert map_of(data, name) is None


def test_small_metadata_stays_as_it_is() -> None:
    value = {"a": "x" * MAX_VALUE_BYTES, "b": [1, 2.5, None, True], "c": {"d": "e"}, "ü": "\u2028"}
    assert bounded(value) == value


def test_long_values_leave_their_digest() -> None:
    text = "ü" * MAX_VALUE_BYTES
    found = bounded({"text": text, "list": list(range(5000))})
    assert found["text"] == {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "length": 2 * MAX_VALUE_BYTES,
    }
    assert found["list"]["length"] == 5000
    assert bounded({"text": text + "x"})["text"] != found["text"]


def test_of_many_values_the_largest_go_first() -> None:
    values = {f"k{i:02}": "x" * (100 * i) for i in range(40)}
    found = bounded(values)
    assert len(canonical.encode(found)) <= MAX_BYTES
    kept = [key for key, value in found.items() if isinstance(value, str)]
    assert kept == sorted(values)[: len(kept)]
    assert len(canonical.encode(found)) > MAX_BYTES - 4000


def test_too_many_keys_are_one_digest() -> None:
    values = {f"key number {i}": i for i in range(5000)}
    assert bounded(values)[EVERYTHING]["length"] == 5000
    assert bounded(values) != bounded({**values, "key number 7": 8})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2000),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=300), JSON, max_size=50), st.integers(1, 60))
def test_metadata_is_bounded_whatever_it_is(values: dict[str, object], times: int) -> None:
    many = {f"{key}/{i}": value for key, value in values.items() for i in range(times)}
    try:
        found = bounded(many)
    except InputError:
        with pytest.raises(ValueError):  # not Unicode, or not finite
            json.dumps(many, allow_nan=False, ensure_ascii=False).encode()
        return
    assert len(canonical.encode(found)) <= MAX_BYTES
