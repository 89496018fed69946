"""Access profiles: what is recorded, how it is written down, and what is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.lazy.recorder import Recorder
from ocimodel.spec.profile import MAX_RANGES, encode_profile, parse_profile

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "profile.schema.json").read_text())
READS = st.lists(
    st.tuples(st.sampled_from(["a", "b/c"]), st.integers(0, 60), st.integers(1, 30)), max_size=30
)


def test_reads_that_go_on_are_one_range() -> None:
    recorder = Recorder()
    for start in (0, 10, 20):
        recorder.note("a", start, start + 10)
    recorder.note("b", 5, 6)
    recorder.note("a", 30, 40)
    assert recorder.ranges() == (("a", 0, 40), ("b", 5, 1))


def test_what_was_read_before_is_not_told_again() -> None:
    recorder = Recorder()
    recorder.note("a", 10, 20)
    recorder.note("a", 0, 30)
    assert recorder.ranges() == (("a", 10, 10), ("a", 0, 10), ("a", 20, 10))


@given(READS)
def test_each_byte_that_was_read_is_told_once(reads: list[tuple[str, int, int]]) -> None:
    recorder = Recorder()
    wanted = set()
    for path, start, length in reads:
        recorder.note(path, start, start + length)
        wanted |= {(path, i) for i in range(start, start + length)}
    told = [(p, i) for p, start, length in recorder.ranges() for i in range(start, start + length)]
    assert len(told) == len(set(told))
    assert set(told) == wanted


@given(READS)
def test_what_is_written_is_read_again(reads: list[tuple[str, int, int]]) -> None:
    raw = encode_profile(reads)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(raw))
    assert parse_profile(raw) == tuple(reads)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"ranges":[]}',
        b'{"version":2,"ranges":[]}',
        b'{"version":1,"ranges":[["a",0]]}',
        b'{"version":1,"ranges":[["a",0,true]]}',
        b'{"version":1,"ranges":[["a",-1,1]]}',
        b'{"version":1,"ranges":[["../a",0,1]]}',
        b'{"version":1,"ranges":[[1,0,1]]}',
        b'{"version":1,"ranges":7}',
        b'{"version":1,"ranges":[' + b",".join([b'["a",0,1]'] * (MAX_RANGES + 1)) + b"]}",
    ],
    ids=lambda raw: raw[:40].decode(),
)
def test_what_is_no_profile(raw: bytes) -> None:
    with pytest.raises(InputError):
        parse_profile(raw)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_profile_or_an_input_error(raw: bytes) -> None:
    with contextlib.suppress(InputError):
        parse_profile(raw)
