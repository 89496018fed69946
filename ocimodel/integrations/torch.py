"""Fill the tensors that a torch module has already, straight from a registry.

with ocimodel.open("registry.example.com/team/minilm:v1") as model:
    fill_state_dict(model, module.state_dict())
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ocimodel.errors import InputError
from ocimodel.lazy.model import LazyModel


def fill_state_dict(
    model: LazyModel,
    state_dict: Mapping[str, Any],
    *,
    prefix: str = "",
    strict: bool = True,
    workers: int = 0,
) -> tuple[str, ...]:
    """Copy the model's tensors into those of `state_dict`, in place, each as soon as it is here.

    `state_dict`: torch tensors, on any device and of any type. `prefix`: what the model's names
    have in front of those of `state_dict`. Gives the names that the model lacks; with `strict` that
    is an InputError, as is another shape. Memory is bounded by the model's window.
    """
    known = model.tensors("torch")
    missing = tuple(name for name in state_dict if prefix + name not in known)
    if missing and strict:
        raise InputError(
            f"the model lacks {len(missing)} tensors of the state_dict: {', '.join(missing[:5])}",
            hint="give the prefix of its names, or strict=False",
        )
    for name, target in state_dict.items():
        if name not in missing and tuple(target.shape) != known[prefix + name].shape:
            raise InputError(
                f"{prefix + name} has the shape {known[prefix + name].shape} in the model, "
                f"and {tuple(target.shape)} here"
            )
    wanted = [prefix + name for name in state_dict if name not in missing]
    # in the order of the files, which costs the fewest requests
    order = {name: i for i, name in enumerate(known)}
    for name, tensor in model.load(
        sorted(wanted, key=order.__getitem__), workers=workers, framework="torch"
    ):
        state_dict[name.removeprefix(prefix)].detach().copy_(tensor)
    return missing
