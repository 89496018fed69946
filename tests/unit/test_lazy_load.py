"""Many tensors as they arrive: in which order, in which memory, how far ahead, and how it ends."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ocimodel.errors import InputError, IntegrityError, NotFoundError, RegistryError
from ocimodel.lazy.loading import GROUP_BYTES, group
from ocimodel.lazy.model import LazyModel
from ocimodel.lazy.pool import Pool
from ocimodel.spec.chunkindex import MAX_CHUNK_BYTES, ChunkIndex, IndexedFile
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.tensor import Tensor
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Reader
from tests.artifacts import Recorder, put_model
from tests.indexed import Weights
from tests.lazy import BIG, MIB, SAMPLE, SAMPLE_FILE, Gate, array, file_of, opened, reopened, same
from tests.weights import field as onnx_field
from tests.weights import onnx_external, onnx_model, onnx_tensor

LAYOUTS = {"one blob": {}, "segments": {"layering": "auto", "max_layer_bytes": 5 * MIB}}


def settle(pool: Pool) -> None:
    """Wait until its threads have nothing to do."""
    while pool._tasks or pool._urgent or pool._n_idle != pool._n_threads:
        pass


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("workers", [0, 1, 8])
@pytest.mark.parametrize("is_cached", [False, True])
def test_everything_in_the_order_of_the_file(
    layout: str, workers: int, is_cached: bool, tmp_path: Path
) -> None:
    cache = tmp_path / "cache" if is_cached else None
    with opened(layout=LAYOUTS[layout], cache=cache) as it:
        for _ in range(2):
            loaded = list(it.model.load(workers=workers, framework="numpy"))
            assert [name for name, _ in loaded] == list(SAMPLE)
            assert all(same(found, SAMPLE[name][1]) for name, found in loaded)
        assert it.model.mode == "lazy"
        n_times = 1 if is_cached else 2
        assert it.source.n_bytes_read <= n_times * len(SAMPLE_FILE.content)


def test_the_order_of_the_names() -> None:
    wanted = ["c.rows", "a.bias", "b.big", "a.bias", "c.empty"]
    with opened() as it:
        loaded = list(it.model.load(iter(wanted), framework="numpy"))
        assert [name for name, _ in loaded] == wanted
        assert all(same(found, SAMPLE[name][1]) for name, found in loaded)
        first, second = (found for name, found in loaded if name == "a.bias")
        first[:] = 0
        assert same(second, SAMPLE["a.bias"][1])


def test_names_by_prefix() -> None:
    with opened() as it:
        assert [name for name, _ in it.model.load(prefix="b.")] == ["b.norm", "b.big", "b.small"]
        assert [name for name, _ in it.model.load(["c.rows", "b.big"], prefix="b.")] == ["b.big"]
        assert list(it.model.load(prefix="z")) == []
        assert list(it.model.load([])) == []


def test_an_unknown_name_is_told_before_anything_is_fetched() -> None:
    with opened() as it:
        with pytest.raises(NotFoundError, match=r"b\.huge"):
            it.model.load(["a.big", "b.huge"])
        assert it.source.asked == []


def test_two_files_with_a_tensor_of_one_name() -> None:
    one = file_of({"t": ("F32", array((2,)))})
    with opened({"a.safetensors": one, "b.safetensors": one}) as it:
        with pytest.raises(InputError, match="two files"):
            it.model.tensors()
        assert it.model.open("b.safetensors").read() == one.content


@pytest.mark.parametrize("names", [["b.big", "a.bias"], ["c.rows"], ["a.big"]])
def test_a_subset_costs_its_bytes(names: list[str]) -> None:
    with opened() as it:
        list(it.model.load(names))
        wanted = sum(SAMPLE[name][1].nbytes for name in names)
        # small ones come with the others of their chunk
        slack = 0.05 * wanted + 64 * 1024
        assert it.source.n_bytes_read <= wanted + slack
        assert it.model.traffic.n_fetched == it.source.n_bytes_read


def shards(n: int) -> dict[str, Weights]:
    return {
        f"{i}.safetensors": file_of({f"t{i}": ("U8", array((2, MAX_CHUNK_BYTES), "U8", i))})
        for i in range(n)
    }


@pytest.mark.parametrize("n_groups", [1, 2, 4])
def test_no_more_is_fetched_ahead_than_the_window(n_groups: int) -> None:
    size = 2 * MAX_CHUNK_BYTES
    window = n_groups * size
    with opened(shards(8), window=window) as it:
        n_taken = 0
        for _, found in it.model.load(framework="numpy"):
            settle(it.model.pool)
            n_taken += found.nbytes
            # begun when the one before was taken
            assert it.source.n_bytes_read <= n_taken - size + max(size, window)
        assert n_taken == it.source.n_bytes_read == 8 * size


def test_one_that_is_bigger_than_the_window() -> None:
    with opened(window=MIB) as it:
        assert [name for name, _ in it.model.load()] == list(SAMPLE)


def test_nothing_is_fetched_before_it_is_iterated() -> None:
    with opened() as it:
        loading = it.model.load()
        settle(it.model.pool)
        assert it.source.asked == []
        next(loading)


@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_early(workers: int) -> None:
    with opened(shards(8), window=16 * MIB) as it:
        loading = it.model.load(workers=workers)
        next(loading)
        loading.close()  # type: ignore[attr-defined]
        settle(it.model.pool)
        assert it.source.n_bytes_read <= 3 * 8 * MIB
        # the model goes on
        assert len(list(it.model.load(["t7", "t1"]))) == 2


def test_changing_one_array_changes_no_other() -> None:
    with opened() as it:
        loaded = dict(it.model.load(framework="numpy"))
        for name, found in loaded.items():
            found[...] = 0
            for other, (_, expected) in SAMPLE.items():
                if other != name:
                    assert same(loaded[other], expected), (name, other)
            loaded[name] = SAMPLE[name][1]
        assert same(it.model.tensors("numpy")["a.bias"].numpy(), SAMPLE["a.bias"][1])


def test_a_small_tensor_that_is_kept_keeps_no_big_memory() -> None:
    with opened() as it:
        kept = next(f for n, f in it.model.load(framework="numpy") if n == "a.bias")
        gc.collect()
        base = kept
        while isinstance(base, np.ndarray):
            base = base.base
        assert memoryview(base).nbytes <= 4096


@dataclass
class Flaky(Recorder):
    """Fails for what lies at or behind `wall`, a byte of a blob."""

    wall: int = 1 << 62

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> Reader:
        if start + (length or 0) > self.wall:
            raise RegistryError("503", status=503)
        return super().open(what, start, length)


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("bad", ["a.big", "b.big", "b.small", "c.rows"])
def test_a_wrong_byte_is_told_where_its_tensor_would_have_come(
    bad: str, is_cached: bool, tmp_path: Path
) -> None:
    with opened(cache=tmp_path / "cache" if is_cached else None) as it:
        tensor = it.model.tensors("numpy")[bad]._tensor
        content = bytearray(SAMPLE_FILE.content)
        content[tensor.offset + tensor.length // 2] ^= 1
        it.source.swapped[it.model.model_files[0].layer.digest] = bytes(content)
        seen = {}
        with pytest.raises(IntegrityError):
            for name, found in it.model.load(framework="numpy"):
                seen[name] = found  # noqa: PERF403 - what came before the error counts
        order = list(SAMPLE)
        before = order[: order.index(bad)]
        # small ones share a chunk, and with it its fate
        assert order[: len(seen)] == list(seen)
        assert len(before) - 5 <= len(seen) <= len(before)
        assert {"b.big": ["a.big"], "a.big": []}.get(bad, ["a.big", "b.big"]) == [
            name for name in seen if "big" in name
        ]
        assert all(same(found, SAMPLE[name][1]) for name, found in seen.items())


def test_a_dead_source_is_told_and_what_came_before_is_given() -> None:
    with opened(shards(4), source=Flaky, window=32 * MIB) as it:
        third = it.model.file("2.safetensors")
        assert isinstance(it.source, Flaky)
        digest = it.model.model_files[2].layer.digest
        it.source.n_bytes_left[digest] = third.size // 2
        seen = []
        loading = it.model.load()
        with pytest.raises(RegistryError):
            for name, _ in loading:
                seen.append(name)
        assert seen == ["t0", "t1"]
        assert list(loading) == []


def test_a_stretch_that_fails_leaves_the_others_in_the_cache(tmp_path: Path) -> None:
    big = file_of({"t": ("U8", array((12, MAX_CHUNK_BYTES), "U8"))})
    with opened({"m.safetensors": big}, source=Flaky, cache=tmp_path) as it:
        assert isinstance(it.source, Flaky)
        it.source.wall = 2 * GROUP_BYTES
        with pytest.raises(RegistryError):
            list(it.model.load())
        settle(it.model.pool)
        it.source.wall = 1 << 62
        n_before = it.source.n_bytes_read
        assert n_before >= GROUP_BYTES
        [(_, found)] = it.model.load(framework="numpy")
        assert same(found, array((12, MAX_CHUNK_BYTES), "U8"))
        assert it.source.n_bytes_read <= len(big.content)


def test_several_at_a_time() -> None:
    with opened() as it, ThreadPoolExecutor(4) as pool:

        def work(n: int) -> bool:
            names = list(SAMPLE)[n % 3 :: 2]
            loaded = list(it.model.load(names, workers=n % 2, framework="numpy"))
            return [name for name, _ in loaded] == names and all(
                same(found, SAMPLE[name][1]) for name, found in loaded
            )

        assert all(pool.map(work, range(8)))


def test_closing_the_model_meanwhile_ends_a_load() -> None:
    with opened(shards(6), source=Gate, window=16 * MIB) as it:
        assert isinstance(it.source, Gate)
        it.source.gate.clear()
        with ThreadPoolExecutor(2) as pool:
            loading = pool.submit(lambda: list(it.model.load()))
            filling = pool.submit(it.model.tensors("numpy")["t5"].numpy)
            assert it.source.is_held.wait(30)
            it.model.close()
            it.source.gate.set()
            for one in (loading, filling):
                error = one.exception(30)
                # what had begun may have ended well
                assert error is None or "closed" in str(error)
            assert isinstance(loading.exception(30), ValueError)


def test_neighbours_are_joined_and_chunks_not_parted() -> None:
    with opened() as it:
        wanted = it.model._wanted(None, "")
        groups = group(wanted)
        assert [t.name for g in groups for t in g.tensors] == list(SAMPLE)
        edges = {0, len(SAMPLE_FILE.content)}
        edges |= {e for pair in wanted[0][1].stretches(0, wanted[0][1].size, 1) for e in pair}
        for one in groups[1:]:
            assert one.start in edges
        assert all(g.stop - g.start <= GROUP_BYTES + MAX_CHUNK_BYTES for g in groups)
        # in another order nothing can be joined
        assert len(group(wanted[::-1])) == len(wanted)


def test_many_small_tensors_come_over_few_requests() -> None:
    n = 3000
    values = {f"layer.{i}": ("F32", array((4, 500), seed=i % 7)) for i in range(n)}
    with opened({"m.safetensors": file_of(values)}) as it:
        loaded = dict(it.model.load(framework="numpy"))
        assert len(loaded) == n
        assert all(same(found, values[name][1]) for name, found in loaded.items())
        # the first ones in smaller parts
        assert len(it.source.asked) <= 6
        assert it.source.n_bytes_read <= it.model.files["m.safetensors"].size


def test_tensors_in_another_file_of_a_foreign_artifact() -> None:
    """Named by the path from the folder of the file that names them."""
    outside = onnx_field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("m.onnx_data")))
    files = {
        "onnx/m.onnx": onnx_model(outside),
        "onnx/m.onnx_data": bytes(8) + array((2, 3)).tobytes(),
    }
    store = MemoryStore()
    with reopened(Recorder(store), put_model(store, files)) as it:
        assert same(dict(it.model.load(framework="numpy"))["w"], array((2, 3)))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor("w", "F32", (100,), 4, 400), "behind its file"),
        (Tensor("w", "F32", (100,), 0, 400, "other.bin"), "not here"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tensor: Tensor, message: str) -> None:
    with opened({"m.bin": bytes(400)}) as it:
        digest = it.model.model_files[0].layer.digest
        entry = IndexedFile("m.bin", 400, (digest,), "onnx", {}, (tensor,), (b"",))
        model = LazyModel(it.source, it.manifest, ChunkIndex({}, {"m.bin": entry}))
        for use in (model.tensors, model.load, lambda: model.load(["w"])):
            with pytest.raises(InputError, match=message):
                use()


def test_what_it_cost_is_known() -> None:
    with opened() as it:
        list(it.model.load(["a.big"]))
        traffic = it.model.traffic
        assert traffic.n_fetched == BIG[0] * BIG[1] == it.source.n_bytes_read
        assert traffic.n_requests == len(it.source.asked) <= 3
        assert (traffic.n_waited, traffic.n_cached) == (0, 0)
        _ = it.model.open("config.json").read(1)
        assert traffic.n_waited == 1


def test_threads_of_a_pool_of_its_own_end() -> None:
    with opened() as it:
        before = threading.active_count()
        list(it.model.load(workers=4))
        while threading.active_count() > before:
            pass
