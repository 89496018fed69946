"""Fill the tensors that a torch module has already, straight from a registry.

with ocimodel.open("registry.example.com/team/minilm:v1") as model:
    fill_state_dict(model, module.state_dict())
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ocimodel.errors import InputError
from ocimodel.lazy.model import LazyModel
from ocimodel.lazy.tensors import LazyTensor


def fill_state_dict(
    model: LazyModel,
    state_dict: Mapping[str, Any],
    *,
    prefix: str = "",
    strict: bool = True,
    workers: int = 0,
) -> tuple[str, ...]:
    """Copy the model's tensors into those of `state_dict`, in place, each as soon as it is here.

    `state_dict`: torch tensors, on any device but "meta"; to another type values are converted as
    `Tensor.copy_` does. `prefix`: what the model's names have in front of those of `state_dict`.
    Gives the names that the model lacks; with `strict` they are an InputError, as another shape
    always is: before anything is changed. What the model has and `state_dict` lacks is not read.
    Memory is bounded by the model's window.

    InputError too when it comes to a tensor of a type that torch lacks. After that, or a network
    that failed midway, some tensors are filled and others are not.
    """
    known = model.tensors("torch")
    missing = tuple(name for name in state_dict if prefix + name not in known)
    if missing and strict:
        raise InputError(
            f"the model lacks {len(missing)} tensors of the state_dict: {', '.join(missing[:5])}",
            hint="give the prefix of its names, or strict=False",
        )
    targets = {prefix + name: target for name, target in state_dict.items()}
    # in the order of the files, which costs the fewest requests
    wanted = [name for name in known if name in targets]
    for name in wanted:
        _check(known[name], targets[name])
    for name, tensor in model.load(wanted, workers=workers, framework="torch"):
        if known[name].dtype != "U8" and str(tensor.dtype) == "torch.uint8":
            raise InputError(f"{name} is {known[name].dtype}, for which torch has no type")
        targets[name].detach().copy_(tensor)
    return missing


def _check(tensor: LazyTensor, target: Any) -> None:
    """Whether `target` can take it. Raises InputError."""
    if tuple(target.shape) != tensor.shape:
        raise InputError(
            f"{tensor.name} has the shape {tensor.shape} in the model, "
            f"and {tuple(target.shape)} here"
        )
    if target.is_meta:
        raise InputError(
            f"the tensor for {tensor.name} is on the device meta, which holds no values",
            hint="module.to_empty(device=…) gives it memory",
        )
