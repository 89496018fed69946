"""Real MiniLM by real transformers: read in place, it gives the embedding that it has from disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.numpy

import ocimodel
from tests.lazy import same
from tests.mounts import mounted, need_fuse
from tests.servers.registry import DockerRegistry
from tests.servers.torch_env import need_torch, run_torch
from tests.trees import patient

SENTENCE = "A model is read where it lies."
N_DIMENSIONS = 384

# `embed`: the mean over the tokens; floats as hexadecimal, so that equal means every bit
COMMON = """
import json, os, sys, tempfile, torch, transformers

def embed(tokenizer, model, sentence):
    given = tokenizer(sentence, return_tensors="pt")
    with torch.no_grad():
        found = model.eval()(**given).last_hidden_state.mean(dim=1)[0]
    print(json.dumps([value.hex() for value in found.tolist()]))

def module_of(opened):
    # small files by model.open, the module from its configuration alone
    with tempfile.TemporaryDirectory() as folder:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            with open(os.path.join(folder, name), "wb") as out:
                out.write(opened.open(name).read())
        config = transformers.AutoConfig.from_pretrained(folder)
        return (
            transformers.AutoTokenizer.from_pretrained(folder),
            transformers.AutoModel.from_config(config),
        )

place, sentence = sys.argv[1:]
"""
FROM_FILES = """
embed(
    transformers.AutoTokenizer.from_pretrained(place),
    transformers.AutoModel.from_pretrained(place),
    sentence,
)
"""
LOADED = """
import ocimodel
with ocimodel.open(place, require_lazy=True) as opened:
    tokenizer, model = module_of(opened)
    tensors = dict(opened.load(framework="torch"))
    tensors.pop("embeddings.position_ids", None)  # a buffer that newer versions do not keep
    model.load_state_dict(tensors, strict=True)
embed(tokenizer, model, sentence)
"""
FILLED = """
import ocimodel
from ocimodel.integrations.torch import fill_state_dict
with ocimodel.open(place, require_lazy=True) as opened:
    tokenizer, model = module_of(opened)
    assert fill_state_dict(opened, model.state_dict()) == ()
embed(tokenizer, model, sentence)
"""
TENSORS = """
import json, mmap, sys, ocimodel, safetensors, safetensors.torch, torch
name = "model.safetensors"
with ocimodel.open(sys.argv[1], require_lazy=True) as opened:
    lazy = opened.tensors()
    whole = safetensors.torch.load(opened.open(name).read())
    with safetensors.safe_open(sys.argv[2] + "/" + name, "pt") as mapped:
        assert list(whole) and set(whole) == set(lazy) == set(mapped.keys())
        for name, tensor in whole.items():
            assert torch.equal(lazy[name].torch(), tensor)
            assert torch.equal(lazy[name].torch(), mapped.get_tensor(name))
            if tensor.dim() == 2:
                rows = mapped.get_slice(name)[3:7]
                assert torch.equal(lazy[name][3:7], rows)
print(len(whole))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    return need_torch()


@pytest.fixture(scope="module")
def reference(docker_registry: DockerRegistry, minilm_dir: Path) -> str:
    name = f"{docker_registry.host}/transformers/minilm:v1"
    return ocimodel.push(minilm_dir, name, client=patient()).pinned


@pytest.fixture(scope="module")
def from_disk(python: Path, minilm_dir: Path) -> list[str]:
    found: list[str] = run_torch(python, COMMON + FROM_FILES, minilm_dir, SENTENCE)
    assert len(set(found)) > N_DIMENSIONS / 2
    return found


@pytest.mark.parametrize("way", [LOADED, FILLED], ids=["load", "fill_state_dict"])
def test_read_in_place_the_embedding_is_that_from_disk(
    python: Path, reference: str, from_disk: list[str], way: str
) -> None:
    found = run_torch(python, COMMON + way, reference, SENTENCE)
    assert len(found) == N_DIMENSIONS
    assert found == from_disk


def test_from_a_mount_the_embedding_is_that_from_disk(
    python: Path, reference: str, from_disk: list[str], tmp_path: Path
) -> None:
    need_fuse()
    with mounted(reference, tmp_path / "mounted", "--require-lazy", "--no-complete") as mount:
        found = run_torch(python, COMMON + FROM_FILES, mount.path, SENTENCE)
        assert mount.stats()["mode"] == "lazy"
    assert found == from_disk


def test_another_sentence_has_another_embedding(
    python: Path, minilm_dir: Path, from_disk: list[str]
) -> None:
    other = run_torch(python, COMMON + FROM_FILES, minilm_dir, SENTENCE.upper() + " No.")
    assert other != from_disk


def test_real_safetensors_and_the_model_agree_on_every_tensor_of_torch(
    python: Path, reference: str, minilm_dir: Path
) -> None:
    assert run_torch(python, TENSORS, reference, minilm_dir) == n_tensors(minilm_dir)


def test_real_safetensors_and_the_model_agree_on_every_tensor_of_numpy(
    reference: str, minilm_dir: Path
) -> None:
    with ocimodel.open(reference, require_lazy=True) as model:
        lazy = model.tensors("numpy")
        whole = safetensors.numpy.load(model.open("model.safetensors").read())
        assert set(whole) == set(lazy)
        for name, array in whole.items():
            assert same(lazy[name].numpy(), array)
    assert len(whole) == n_tensors(minilm_dir)


def n_tensors(folder: Path) -> int:
    """By the file's own header."""
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return len(set(header) - {"__metadata__"})
