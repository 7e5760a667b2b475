"""Change how a language model behaves by editing a few of its weights, with forward passes only.

The public names, loaded when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelsurgery.apply.checkpoint import EditedCopy, apply_to_copy
    from modelsurgery.apply.in_memory import edited
    from modelsurgery.checkpoint import Checkpoint, open_checkpoint
    from modelsurgery.edit import Edit, make_edit
    from modelsurgery.edit_file import load_edit, save_edit
    from modelsurgery.errors import SurgeryError
    from modelsurgery.hidden_states import HiddenStates, extract_hidden_states
    from modelsurgery.lab import embedded_model_path
    from modelsurgery.layouts import GateMatrix, find_gate_matrices
    from modelsurgery.models import LanguageModel, load_model
    from modelsurgery.probe import Probe, fit_probe, fit_probe_on_texts, load_probe, save_probe
    from modelsurgery.recipe import Recipe, run_recipe
    from modelsurgery.region import Region, RowScores, score_rows, select_region
    from modelsurgery.texts import LabelledText, load_texts, split_texts

_MODULES = {
    "Checkpoint": "checkpoint",
    "Edit": "edit",
    "EditedCopy": "apply.checkpoint",
    "GateMatrix": "layouts",
    "HiddenStates": "hidden_states",
    "LabelledText": "texts",
    "LanguageModel": "models",
    "Probe": "probe",
    "Recipe": "recipe",
    "Region": "region",
    "RowScores": "region",
    "SurgeryError": "errors",
    "apply_to_copy": "apply.checkpoint",
    "edited": "apply.in_memory",
    "embedded_model_path": "lab",
    "extract_hidden_states": "hidden_states",
    "find_gate_matrices": "layouts",
    "fit_probe": "probe",
    "fit_probe_on_texts": "probe",
    "load_edit": "edit_file",
    "load_model": "models",
    "load_probe": "probe",
    "load_texts": "texts",
    "make_edit": "edit",
    "open_checkpoint": "checkpoint",
    "run_recipe": "recipe",
    "save_edit": "edit_file",
    "save_probe": "probe",
    "score_rows": "region",
    "select_region": "region",
    "split_texts": "texts",
}

__all__ = [
    "Checkpoint",
    "Edit",
    "EditedCopy",
    "GateMatrix",
    "HiddenStates",
    "LabelledText",
    "LanguageModel",
    "Probe",
    "Recipe",
    "Region",
    "RowScores",
    "SurgeryError",
    "apply_to_copy",
    "edited",
    "embedded_model_path",
    "extract_hidden_states",
    "find_gate_matrices",
    "fit_probe",
    "fit_probe_on_texts",
    "load_edit",
    "load_model",
    "load_probe",
    "load_texts",
    "make_edit",
    "open_checkpoint",
    "run_recipe",
    "save_edit",
    "save_probe",
    "score_rows",
    "select_region",
    "split_texts",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
