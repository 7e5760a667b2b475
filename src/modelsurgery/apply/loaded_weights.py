"""Weights of a loaded model, in their modules or offloaded: reading them, and changing rows.

accelerate keeps offloaded weights elsewhere and loads them when their module runs; in between the
parameter is on torch's meta device. The hook on the module has a map with the values: a tensor in
memory (blocks that a GPU runs from the CPU's memory), or a reader of files, which often are those
of the user's checkpoint. Files are never written to: rows of what is on disk are changed by a map
that stands in for the hook's own and gives copies.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from modelsurgery.checkpoint.rows import RowView
from modelsurgery.errors import UnsupportedModelError


@dataclass(frozen=True)
class NewRows:
    """Rows that take the place of others in a parameter."""

    view: RowView  # the matrix in it
    rows: torch.Tensor  # numbers of its rows, int64 [k]
    values: torch.Tensor  # what they become, [k, d], exact in float32

    def write(self, tensor: torch.Tensor) -> "NewRows":
        """Write them into the parameter's values; those that were there before."""
        matrix = rows_in(tensor, self.view)
        places = self.rows.to(matrix.device)
        before = matrix[places]
        matrix[places] = self.values.to(matrix.device, matrix.dtype)
        return replace(self, values=before)


def rows_in(tensor: torch.Tensor, view: RowView) -> torch.Tensor:
    """The rows of a matrix [rows, d], a view into the tensor that holds it."""
    values = tensor.data
    return values.as_strided(
        (view.rows, view.columns),
        (view.row_stride, view.column_stride),
        values.storage_offset() + view.offset,
    )


def running_device(module: torch.nn.Module) -> torch.device:
    """Device that a module's own parameters are on when it runs."""
    hook = _hook_of(module)
    if hook is not None and hook.execution_device is not None:
        return torch.device(hook.execution_device)
    return next(module.parameters(recurse=False)).device


def is_offloaded(model: torch.nn.Module) -> bool:
    """Whether weights of a model are elsewhere between passes."""
    return any(_hook_of(module) is not None for module in model.modules())


def available_bytes(device: torch.device, on_cpu: int, share: float) -> int:
    """Memory that something may take on a device: a share of what is free, or a sum on a CPU."""
    return int(share * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else on_cpu


def disk_bytes(module: torch.nn.Module) -> int:
    """Bytes of the parameters of a module, and of the modules in it, that are on disk."""
    return sum(
        parameter.numel() * parameter.element_size()
        for owner in module.modules()
        for hook in [_hook_of(owner)]
        if hook is not None
        for name, parameter in owner.named_parameters(recurse=False)
        if not _is_in_memory(hook.weights_map, name, parameter.dtype)
    )


def stored_values(model: torch.nn.Module, path: str) -> torch.Tensor:
    """Values of a parameter of a model or module, wherever they are; not to be written to.

    Raises:
        UnsupportedModelError: they cannot be read.
    """
    module, name = _owned(model, path)
    hook, parameter = _hook_of(module), module.get_parameter(name)
    if hook is not None:
        found: torch.Tensor = hook.weights_map[name]
        return found.to(parameter.dtype)
    if hasattr(parameter, "full_tensor"):  # a DTensor
        raise UnsupportedModelError(
            f"{name} of a {type(module).__name__} is split over processes (tensor parallelism); "
            "load the model in one process, on all its devices with device_map='auto'"
        )
    if parameter.is_meta:
        raise UnsupportedModelError(
            f"{name} of a {type(module).__name__} is not in memory and no hook of accelerate loads "
            "it; load the model with its weights, or edit the checkpoint with `surgery apply`"
        )
    return parameter.data


@contextmanager
def rows_replaced(model: torch.nn.Module, path: str, *changes: NewRows) -> Iterator[None]:
    """Let a parameter of a model or module have other rows, then restore the exact values."""
    module, name = _owned(model, path)
    hook = _hook_of(module)
    dtype = module.get_parameter(name).dtype
    if hook is not None and not _is_in_memory(hook.weights_map, name, dtype):
        before = hook.weights_map
        hook.weights_map = _EditedMap(before, name, dtype, changes)
        try:
            yield
        finally:
            hook.weights_map = before
        return
    tensor = stored_values(module, name)
    kept: list[NewRows] = []
    try:
        kept.extend(change.write(tensor) for change in changes)
        yield
    finally:
        for before in reversed(kept):
            before.write(tensor)


@dataclass(frozen=True, eq=False)
class _EditedMap(Mapping[str, torch.Tensor]):
    """A hook's map of which one tensor is given with edited rows, each time a copy."""

    base: Mapping[str, torch.Tensor]
    name: str
    dtype: torch.dtype
    changes: tuple[NewRows, ...]

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.base[name]
        if name == self.name:
            # A copy: what the map gives may be a file of the checkpoint, mapped into memory.
            tensor = tensor.to(self.dtype, copy=True)
            for change in self.changes:
                change.write(tensor)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


def _is_in_memory(weights: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype) -> bool:
    """Whether a map gives the same tensor each time, rather than what it reads from a file."""
    found = weights[name]
    return found.dtype == dtype and found is weights[name]


def _owned(model: torch.nn.Module, path: str) -> tuple[torch.nn.Module, str]:
    """The module that a parameter belongs to, and what it is called there."""
    owner, _, name = path.rpartition(".")
    return model.get_submodule(owner), name


def _hook_of(module: torch.nn.Module) -> Any:
    """The hook that loads a module's own parameters; None where they stay in place."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):  # several are one `SequentialHook`
        if getattr(one, "offload", False) and one.weights_map is not None:
            return one
    return None
