"""Relatives of the real MiniLM: fine-tunes, shards, GGUF; the same bytes on every machine.

`minilm` is its model directory (tests.servers.minilm); `out` must not exist yet. A tensor that
a variant does not name keeps every byte. Another `seed` gives another fine-tune of the kind.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
WORDS = "embeddings.word_embeddings.weight"
POSITION_IDS = "embeddings.position_ids"
LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
QUERY_VALUE = re.compile(r"encoder\.layer\.\d+\.attention\.self\.(query|value)\.weight")
MB = 1_000_000
Tensors = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Variant:
    """A relative of a model, and what of it the original does not have."""

    path: Path  # the model directory, or the GGUF file
    changed: frozenset[str]  # names of the tensors that are new or different
    changed_bytes: int  # of those tensors, whole
    new_bytes: int  # less than changed_bytes where rows were only appended


def last_layers(minilm: Path, out: Path, n: int = 2, *, seed: int = 0) -> Variant:
    """Every tensor of the last `n` encoder layers has other values."""
    tensors = load_file(minilm / WEIGHTS)
    layers = {name: int(found[1]) for name in tensors if (found := LAYER.match(name))}
    first = max(layers.values()) + 1 - n
    names = {name for name, layer in layers.items() if layer >= first}
    return _finetune(minilm, out, tensors, names, f"last_layers/{seed}")


def query_value(minilm: Path, out: Path, *, seed: int = 0) -> Variant:
    """The query and value weights of all layers have other values, as from a merged LoRA."""
    tensors = load_file(minilm / WEIGHTS)
    return _finetune(minilm, out, tensors, _query_value(tensors), f"query_value/{seed}")


def vocabulary(minilm: Path, out: Path, n_rows: int = 8, *, seed: int = 0) -> Variant:
    """`n_rows` rows are appended to the word embeddings; config.json counts them."""
    tensors = load_file(minilm / WEIGHTS)
    rows = _retuned(tensors[WORDS][:n_rows], f"vocabulary/{seed}/{WORDS}")
    tensors[WORDS] = np.concatenate([tensors[WORDS], rows])
    _copy_others(minilm, out)
    _save(minilm, out / WEIGHTS, tensors)
    config = json.loads((out / "config.json").read_text("utf-8"))
    config["vocab_size"] = len(tensors[WORDS])
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return Variant(out, frozenset({WORDS}), tensors[WORDS].nbytes, rows.nbytes)


def metadata_only(minilm: Path, out: Path) -> Variant:
    """Only `__metadata__` differs: longer, so that every tensor lies elsewhere in the file."""
    _copy_others(minilm, out)
    # by hand: save_file may write the keys of __metadata__ in any order
    with (minilm / WEIGHTS).open("rb") as source, (out / WEIGHTS).open("wb") as sink:
        header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
        header["__metadata__"] |= {"finetuned_from": "all-MiniLM-L6-v2", "step": "1000"}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        sink.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(source, sink, MB)
    return Variant(out, frozenset(), 0, 0)


def resharded(minilm: Path, out: Path, n: int = 3) -> Variant:
    """The same tensors in `n` files and an index, as save_pretrained(max_shard_size=…) writes."""
    tensors = load_file(minilm / WEIGHTS)
    sizes = {name: tensors[name].nbytes for name in sorted(tensors)}
    _copy_others(minilm, out)
    weight_map = {}
    for number, names in enumerate(_shards(sizes, n), 1):
        file = f"model-{number:05}-of-{n:05}.safetensors"
        _save(minilm, out / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (out / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")
    return Variant(out, frozenset(), 0, 0)


def gguf_of(minilm: Path, path: Path) -> Variant:
    """One GGUF file of the model: F32, names kept, without the I64 position ids."""
    _write_gguf(minilm, path, load_file(minilm / WEIGHTS))
    return Variant(path, frozenset(), 0, 0)


def gguf_finetune(minilm: Path, path: Path, *, seed: int = 0) -> Variant:
    """`gguf_of` the fine-tune that `query_value` makes; changed is against `gguf_of(minilm)`."""
    tensors = load_file(minilm / WEIGHTS)
    names = _query_value(tensors)
    n_bytes = _retune(tensors, names, f"query_value/{seed}")
    _write_gguf(minilm, path, tensors)
    return Variant(path, frozenset(names), n_bytes, n_bytes)


class Finetunes:
    """Each variant of one model, made under `root` when first asked for; read only."""

    def __init__(self, minilm: Path, root: Path) -> None:
        self.original = minilm
        self._root = root

    @cached_property
    def last_layers(self) -> Variant:
        return last_layers(self.original, self._root / "last-layers")

    @cached_property
    def query_value(self) -> Variant:
        return query_value(self.original, self._root / "query-value")

    @cached_property
    def vocabulary(self) -> Variant:
        return vocabulary(self.original, self._root / "vocabulary")

    @cached_property
    def metadata_only(self) -> Variant:
        return metadata_only(self.original, self._root / "metadata-only")

    @cached_property
    def resharded(self) -> Variant:
        return resharded(self.original, self._root / "resharded")

    @cached_property
    def gguf(self) -> Variant:
        """A file alone in its folder, so that `path.parent` is a model directory."""
        return gguf_of(self.original, self._root / "gguf" / "model.gguf")

    @cached_property
    def gguf_finetune(self) -> Variant:
        """A file alone in its folder, as `gguf`."""
        return gguf_finetune(self.original, self._root / "gguf-finetune" / "model.gguf")


def _finetune(minilm: Path, out: Path, tensors: Tensors, names: set[str], seed: str) -> Variant:
    n_bytes = _retune(tensors, names, seed)
    _copy_others(minilm, out)
    _save(minilm, out / WEIGHTS, tensors)
    return Variant(out, frozenset(names), n_bytes, n_bytes)


def _query_value(tensors: Iterable[str]) -> set[str]:
    return {name for name in tensors if QUERY_VALUE.fullmatch(name)}


def _retune(tensors: Tensors, names: set[str], seed: str) -> int:
    """Give the named tensors other values; their size in bytes."""
    for name in names:
        tensors[name] = _retuned(tensors[name], f"{seed}/{name}")
    return sum(tensors[name].nbytes for name in names)


def _retuned(values: np.ndarray[Any, Any], seed: str) -> np.ndarray[Any, Any]:
    """Values near the given ones, as training leaves them.

    Only exact operations (maximum, uniform draws, IEEE sums): the same bits on every processor.
    """
    generator = np.random.Generator(np.random.SFC64(zlib.crc32(seed.encode())))
    scale = (np.abs(values).max() or np.float32(1)) / np.float32(64)
    return values + scale * (generator.random(values.shape, dtype=np.float32) - np.float32(0.5))


def _copy_others(minilm: Path, out: Path) -> None:
    """Copies, not links: a test may edit them."""
    shutil.copytree(minilm, out, ignore=shutil.ignore_patterns(WEIGHTS))


def _save(minilm: Path, path: Path, tensors: Tensors) -> None:
    """Write the tensors under the original's `__metadata__`, in save_file's order."""
    with safe_open(minilm / WEIGHTS, "numpy") as original:
        metadata = original.metadata()
    save_file(tensors, path, metadata)


def _shards(sizes: Mapping[str, int], n: int) -> list[list[str]]:
    """The names in `n` shards, at the smallest max_shard_size (steps of 0.1 MB) that gives `n`."""
    for limit in range(MB // 10, sum(sizes.values()) + MB, MB // 10):
        shards = _split(sizes, limit)
        if len(shards) == n:
            return shards
    raise ValueError(f"no max_shard_size cuts these {len(sizes)} tensors into {n} files")


def _split(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """huggingface_hub's split_state_dict_into_shards: greedy, an oversized tensor alone."""
    shards: list[list[str]] = []
    shard: list[str] = []
    left = limit
    for name, n_bytes in sizes.items():
        if n_bytes > limit:
            shards.append([name])
            continue
        if n_bytes > left:
            shards.append(shard)
            shard, left = [], limit
        shard.append(name)
        left -= n_bytes
    return [*shards, shard] if shard else shards


def _write_gguf(minilm: Path, path: Path, tensors: Tensors) -> None:
    from gguf import GGUFWriter, LlamaFileType

    config = json.loads((minilm / "config.json").read_text("utf-8"))
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "bert")
    setters: dict[str, Callable[[Any], None]] = {
        "num_hidden_layers": writer.add_block_count,
        "max_position_embeddings": writer.add_context_length,
        "hidden_size": writer.add_embedding_length,
        "intermediate_size": writer.add_feed_forward_length,
        "num_attention_heads": writer.add_head_count,
        "layer_norm_eps": writer.add_layer_norm_eps,
    }
    for key, add in setters.items():
        add(config[key])
    writer.add_file_type(LlamaFileType.ALL_F32)
    for name, values in tensors.items():
        if name != POSITION_IDS:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
