"""What is for torch, with the real torch: filling a state_dict, and vLLM's loader without vLLM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ocimodel.spec.tensor import Tensor
from tests.indexed import Weights, put_layout
from tests.lazy import Arrays, array, file_of
from tests.servers.torch_env import need_torch, run_torch
from tests.servers.vllm_standin import write_vllm

ARRAYS: Arrays = {
    "m.weight": ("F32", array((300, 700), seed=1)),
    "m.bias": ("F32", array((300,), seed=2)),
    "m.steps": ("I64", array((), "I64", seed=3)),
    "m.half": ("BF16", array((40, 50), "BF16", seed=4)),
    "m.empty": ("F16", array((0, 4), "F16", seed=5)),
}


@pytest.fixture(scope="module")
def python() -> Path:
    return need_torch()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    layout = tmp_path_factory.mktemp("torch") / "layout"
    files = {"model.safetensors": file_of(ARRAYS), "config.json": b"{}"}
    return put_layout(layout, "v1", files)


def expected() -> dict[str, float]:
    """The sum of each tensor, which is exact: the values are small whole numbers."""
    return {name: float(values.astype(np.float64).sum()) for name, (_, values) in ARRAYS.items()}


FILL = """
import json, sys, torch, ocimodel
from ocimodel.integrations.torch import fill_state_dict

weight = torch.full((700, 300), -1.0).t()  # not contiguous
target = {
    "weight": torch.nn.Parameter(weight),
    "bias": torch.full((300,), -1.0, dtype=torch.float64),  # of another type
    "steps": torch.tensor(-1),
    "half": torch.full((40, 50), -1.0, dtype=torch.bfloat16),
    "empty": torch.empty((0, 4), dtype=torch.float16),
}
places = {name: tensor.data_ptr() for name, tensor in target.items()}
with ocimodel.open(sys.argv[1]) as model:
    assert fill_state_dict(model, target, prefix="m.", workers=2) == ()
assert places == {name: tensor.data_ptr() for name, tensor in target.items()}
assert target["weight"].requires_grad and target["bias"].dtype == torch.float64
assert weight[1, 0] == target["weight"][1, 0]
print(json.dumps({f"m.{name}": float(t.double().sum()) for name, t in target.items()}))
"""


def test_tensors_are_filled_where_they_are(python: Path, reference: str) -> None:
    assert run_torch(python, FILL, reference) == expected()


REFUSE = """
import json, sys, torch, ocimodel
from ocimodel.errors import InputError
from ocimodel.integrations.torch import fill_state_dict

def bias(): return torch.full((300,), -1.0)
bad = {
    "another shape": {"m.bias": bias(), "m.weight": torch.zeros(700, 300)},
    "would be broadcast": {"m.bias": bias(), "m.steps": torch.zeros(3, dtype=torch.int64)},
    "no values": {"m.bias": bias(), "m.weight": torch.empty(300, 700, device="meta")},
    "missing": {"m.bias": bias(), "m.other": torch.zeros(1)},
}
said = {}
with ocimodel.open(sys.argv[1]) as model:
    for what, target in bad.items():
        try:
            fill_state_dict(model, target)
        except InputError as error:
            said[what] = str(error)
        assert bool((target["m.bias"] == -1).all()), what
    assert model.traffic.n_fetched == 0
    assert fill_state_dict(model, bad["missing"], strict=False) == ("m.other",)
    assert float(bad["missing"]["m.bias"].sum()) == float(sys.argv[2])
print(json.dumps(said))
"""


def test_what_does_not_fit_is_refused_before_anything_is_changed(
    python: Path, reference: str
) -> None:
    said = run_torch(python, REFUSE, reference, expected()["m.bias"])
    assert set(said) == {"another shape", "would be broadcast", "no values", "missing"}
    assert "(300, 700)" in said["another shape"] and "(700, 300)" in said["another shape"]
    assert "meta" in said["no values"]
    assert "lacks 1 tensors" in said["missing"] and "m.other" in said["missing"]


OPAQUE = """
import json, sys, torch, ocimodel
from ocimodel.errors import InputError
from ocimodel.integrations.torch import fill_state_dict

with ocimodel.open(sys.argv[1]) as model:
    try:
        fill_state_dict(model, {"odd": torch.zeros(4, 6)})
    except InputError as error:
        print(json.dumps(str(error)))
"""


def test_bytes_of_a_type_that_torch_lacks_are_not_taken_for_numbers(
    python: Path, tmp_path: Path
) -> None:
    # as many bytes as elements, so that copying them would succeed
    odd = Weights(bytes(24), "gguf", {}, (Tensor("odd", "Q9_X", (4, 6), 0, 24),))
    assert "odd is Q9_X" in run_torch(
        python, OPAQUE, put_layout(tmp_path / "layout", "v1", {"model.gguf": odd})
    )


LOADER = """
import json, sys, torch
from ocimodel.integrations.vllm import register
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import get_model_loader

class Model(torch.nn.Module):
    def load_weights(self, weights):
        # as vLLM's models do: a pass, and each tensor is kept or copied
        self.found = dict(weights)
        return set(self.found)

class VllmConfig:
    new_model = Model

register()
loader = get_model_loader(LoadConfig("ocimodel", json.loads(sys.argv[1])))
loader.download_model(None)
found = loader.load_model(VllmConfig, None).found
assert all(type(tensor) is torch.Tensor for tensor in found.values())
filled = [tensor for tensor in found.values() if tensor.numel()]
assert len({tensor.data_ptr() for tensor in filled}) == len(filled)
print(json.dumps({name: float(tensor.double().sum()) for name, tensor in found.items()}))
"""


@pytest.mark.parametrize("cached", [False, True])
def test_vllms_loader_streams_all_tensors_into_the_model(
    python: Path, reference: str, tmp_path: Path, cached: bool
) -> None:
    cache = tmp_path / "cache"
    options: dict[str, object] = {"reference": reference, "workers": 3, "require_lazy": True}
    if cached:
        options["cache"] = str(cache)
    found = run_torch(python, LOADER, json.dumps(options), path=write_vllm(tmp_path / "standin"))
    assert found == expected()
    assert list(found) == list(ARRAYS)
    assert cache.exists() == cached


def test_vllms_loader_takes_the_part_of_a_prefix_by_its_own_names(
    python: Path, reference: str, tmp_path: Path
) -> None:
    options = json.dumps({"reference": reference, "prefix": "m.b"})
    found = run_torch(python, LOADER, options, path=write_vllm(tmp_path / "standin"))
    assert found == {"ias": expected()["m.bias"]}
