"""What a method makes of a model: something that changes it, more or less strongly.

Some methods give other weights, some watch activations at run time. Both change a loaded model for
as long as a `with` block lasts, at any strength; at strength 0 it is the base model.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from transformers.pytorch_utils import Conv1D

from modelsurgery.apply.in_memory import edited
from modelsurgery.edit.edit import Edit
from modelsurgery.model.language_model import LanguageModel

Held = TypeVar("Held")


@dataclass(frozen=True, kw_only=True)
class Intervention(ABC):
    """A change of a model at any strength."""

    first: float = 1.0  # where a search for a strength begins
    most: float | None = None  # the largest strength that has a meaning; None without such a limit

    @property
    @abstractmethod
    def touched(self) -> int:
        """Parameters that change, or that are added at run time."""

    @abstractmethod
    def applied(self, model: LanguageModel, strength: float) -> AbstractContextManager[object]:
        """Change a model inside a `with` block."""


@dataclass(frozen=True)
class EditIntervention(Intervention):
    """An edit of gate rows, given at strength 1."""

    edit: Edit

    @property
    def touched(self) -> int:
        """Weights of the edited rows."""
        return sum(update.rows.size * update.shape[1] for update in self.edit.updates)

    def applied(self, model: LanguageModel, strength: float) -> AbstractContextManager[object]:
        """Apply the edit."""
        return edited(model.model, self.edit.scaled(strength))


@dataclass(frozen=True)
class Reweighted(Intervention, Generic[Held]):
    """Other matrices in some linear layers."""

    held: Mapping[str, Held]  # what each of them is changed with, by path in the loaded model
    # Gives a matrix [out, in] f32 from what it is, what is held for it, and a strength.
    change: Callable[[torch.Tensor, Held, float], torch.Tensor]
    touched: int = 0  # see `Intervention`

    def applied(self, model: LanguageModel, strength: float) -> AbstractContextManager[object]:
        """Write the matrices."""

        def changed() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for path, held in self.held.items():
                matrix = matrix_of(model.model.get_submodule(path))
                yield matrix, self.change(matrix.float(), held, strength)

        return overwritten(changed())


# Gives the output [..., d] of a module at a strength, from what it is.
OutputChange = Callable[[torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Hooked(Intervention):
    """Outputs of some modules, changed at run time."""

    changes: Mapping[str, OutputChange]  # by path of the module in the loaded model
    touched: int = 0  # see `Intervention`

    def applied(self, model: LanguageModel, strength: float) -> AbstractContextManager[object]:
        """Watch the modules."""
        hooks = {path: partial(_changed, change, strength) for path, change in self.changes.items()}
        return hooks_on(model, hooks)


def _changed(change: OutputChange, strength: float, _: Any, __: Any, output: Any) -> Any:
    """What a hook puts in the place of an output, which may be the first of several."""
    if isinstance(output, tuple):
        return (change(output[0], strength), *output[1:])
    return change(output, strength)


@contextmanager
def hooks_on(model: LanguageModel, hooks: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Call forward hooks (module, inputs, output) of modules, by path, inside a `with` block."""
    with ExitStack() as stack:
        for path, hook in hooks.items():
            module = model.model.get_submodule(path)
            stack.callback(module.register_forward_hook(hook).remove)
        yield


@contextmanager
def overwritten(values: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[None]:
    """Write new values into tensors, one after the other, and the very same old ones back."""
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for tensor, new in values:
                kept.append((tensor, tensor.clone()))
                tensor.copy_(new)
        yield
    finally:
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)


def matrix_of(module: Any) -> torch.Tensor:
    """The weight of a linear layer as [out, in], a view."""
    weight: torch.Tensor = module.weight.data
    return weight.T if isinstance(module, Conv1D) else weight


def parameters_in(model: LanguageModel, paths: Iterable[str]) -> int:
    """Parameters of linear layers, biases not counted."""
    return sum(matrix_of(model.model.get_submodule(path)).numel() for path in paths)
