"""What a method makes of a model: something that changes it, more or less strongly.

Some methods give other weights, some watch activations at run time. Both change a loaded model for
as long as a `with` block lasts, at any strength; at strength 0 it is the base model.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from modelsurgery.apply.in_memory import edited
from modelsurgery.edit.edit import Edit
from modelsurgery.model.language_model import LanguageModel


class Intervention(ABC):
    """A change of a model at any strength.

    Attributes:
        first: where a search for a strength begins.
        most: the largest strength that has a meaning; None without such a limit.
        touched: parameters that change, or that are added at run time.
    """

    first: float = 1.0
    most: float | None = None
    touched: int = 0

    @abstractmethod
    def applied(self, model: LanguageModel, strength: float) -> AbstractContextManager[None]:
        """Change a model inside a `with` block."""


@dataclass(frozen=True)
class EditIntervention(Intervention):
    """An edit of gate rows; `strength` multiplies it.

    Attributes:
        edit: the edit at strength 1.
        first: see `Intervention`.
    """

    edit: Edit
    first: float = 1.0

    @property
    def touched(self) -> int:  # type: ignore[override]
        """Weights of the edited rows."""
        return sum(update.rows.size * update.shape[1] for update in self.edit.updates)

    @contextmanager
    def applied(self, model: LanguageModel, strength: float) -> Iterator[None]:
        """Apply the edit."""
        with edited(model.model, self.edit.scaled(strength)):
            yield


# Gives the matrix [out, in] f32 of a module at a strength, from its path and what it holds.
MatrixChange = Callable[[str, torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Reweighted(Intervention):
    """Other matrices in some linear layers.

    Attributes:
        paths: of the layers, in the loaded model.
        change: what their matrices become.
        touched: see `Intervention`.
        first: see `Intervention`.
        most: see `Intervention`.
    """

    paths: tuple[str, ...]
    change: MatrixChange
    touched: int = 0
    first: float = 1.0
    most: float | None = None

    @contextmanager
    def applied(self, model: LanguageModel, strength: float) -> Iterator[None]:
        """Write the matrices, and the very same ones back."""
        kept: dict[str, torch.Tensor] = {}
        try:
            with torch.no_grad():
                for path in self.paths:
                    matrix = matrix_of(model.model.get_submodule(path))
                    kept[path] = matrix.clone()
                    matrix.copy_(self.change(path, matrix.float(), strength))
            yield
        finally:
            with torch.no_grad():
                for path, before in kept.items():
                    matrix_of(model.model.get_submodule(path)).copy_(before)


# Gives the output [..., d] of a module at a strength, from what it is.
OutputChange = Callable[[torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Hooked(Intervention):
    """Outputs of some modules, changed at run time.

    Attributes:
        changes: by path of the module in the loaded model.
        touched: see `Intervention`.
        first: see `Intervention`.
        most: see `Intervention`.
    """

    changes: Mapping[str, OutputChange]
    touched: int = 0
    first: float = 1.0
    most: float | None = None

    @contextmanager
    def applied(self, model: LanguageModel, strength: float) -> Iterator[None]:
        """Watch the modules."""
        with ExitStack() as stack:
            for path, change in self.changes.items():
                module = model.model.get_submodule(path)
                handle = module.register_forward_hook(_changing(change, strength))
                stack.callback(handle.remove)
            yield


def _changing(change: OutputChange, strength: float) -> Callable[..., Any]:
    def hook(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0], strength), *output[1:])
        return change(output, strength)

    return hook


def matrix_of(module: Any) -> torch.Tensor:
    """The weight of a linear layer as [out, in], a view."""
    weight: torch.Tensor = module.weight.data
    return weight.T if isinstance(module, Conv1D) else weight


def parameters_in(model: LanguageModel, paths: Iterable[str]) -> int:
    """Parameters of linear layers, biases not counted."""
    return sum(matrix_of(model.model.get_submodule(path)).numel() for path in paths)
