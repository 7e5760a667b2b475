"""Change how a language model behaves by editing a few of its weights.

The public names, loaded when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelsurgery.apply.copying import EditedCopy, apply_to_copy
    from modelsurgery.apply.in_memory import edited
    from modelsurgery.apply.in_place import EditedInPlace, apply_in_place
    from modelsurgery.apply.undoing import Undone, undo
    from modelsurgery.apply.verification import Verification, verify
    from modelsurgery.checkpoint import Checkpoint, open_checkpoint
    from modelsurgery.comparison import TensorDifference, compare_checkpoints
    from modelsurgery.edit import Edit, make_edit
    from modelsurgery.edit_file import load_edit, save_edit
    from modelsurgery.edit_fitting import fit_edit
    from modelsurgery.errors import SurgeryError
    from modelsurgery.export import GgufAdapter, PeftAdapter, write_gguf_adapter, write_peft_adapter
    from modelsurgery.fitting import fit_probe, fit_probe_on_texts
    from modelsurgery.hidden_states import HiddenStates, extract_hidden_states
    from modelsurgery.lab import embedded_model_path
    from modelsurgery.layouts import GateLayout, GateMatrix, find_gate_matrices, load_layout
    from modelsurgery.models import LanguageModel, load_model
    from modelsurgery.planning import Plan, plan_surgery
    from modelsurgery.probe import Probe, load_probe, save_probe
    from modelsurgery.recipe import Recipe
    from modelsurgery.region import Region, RowScores, score_rows, select_region
    from modelsurgery.running import run_recipe
    from modelsurgery.texts import LabelledText, load_texts, split_texts

_MODULES = {
    "Checkpoint": "checkpoint",
    "Edit": "edit",
    "EditedCopy": "apply.copying",
    "EditedInPlace": "apply.in_place",
    "GateLayout": "layouts",
    "GateMatrix": "layouts",
    "GgufAdapter": "export",
    "HiddenStates": "hidden_states",
    "LabelledText": "texts",
    "LanguageModel": "models",
    "PeftAdapter": "export",
    "Plan": "planning",
    "Probe": "probe",
    "Recipe": "recipe",
    "Region": "region",
    "RowScores": "region",
    "SurgeryError": "errors",
    "TensorDifference": "comparison",
    "Undone": "apply.undoing",
    "Verification": "apply.verification",
    "apply_in_place": "apply.in_place",
    "apply_to_copy": "apply.copying",
    "compare_checkpoints": "comparison",
    "edited": "apply.in_memory",
    "embedded_model_path": "lab",
    "extract_hidden_states": "hidden_states",
    "find_gate_matrices": "layouts",
    "fit_edit": "edit_fitting",
    "fit_probe": "fitting",
    "fit_probe_on_texts": "fitting",
    "load_edit": "edit_file",
    "load_layout": "layouts",
    "load_model": "models",
    "load_probe": "probe",
    "load_texts": "texts",
    "make_edit": "edit",
    "open_checkpoint": "checkpoint",
    "plan_surgery": "planning",
    "run_recipe": "running",
    "save_edit": "edit_file",
    "save_probe": "probe",
    "score_rows": "region",
    "select_region": "region",
    "split_texts": "texts",
    "undo": "apply.undoing",
    "verify": "apply.verification",
    "write_gguf_adapter": "export",
    "write_peft_adapter": "export",
}

__all__ = [
    "Checkpoint",
    "Edit",
    "EditedCopy",
    "EditedInPlace",
    "GateLayout",
    "GateMatrix",
    "GgufAdapter",
    "HiddenStates",
    "LabelledText",
    "LanguageModel",
    "PeftAdapter",
    "Plan",
    "Probe",
    "Recipe",
    "Region",
    "RowScores",
    "SurgeryError",
    "TensorDifference",
    "Undone",
    "Verification",
    "apply_in_place",
    "apply_to_copy",
    "compare_checkpoints",
    "edited",
    "embedded_model_path",
    "extract_hidden_states",
    "find_gate_matrices",
    "fit_edit",
    "fit_probe",
    "fit_probe_on_texts",
    "load_edit",
    "load_layout",
    "load_model",
    "load_probe",
    "load_texts",
    "make_edit",
    "open_checkpoint",
    "plan_surgery",
    "run_recipe",
    "save_edit",
    "save_probe",
    "score_rows",
    "select_region",
    "split_texts",
    "undo",
    "verify",
    "write_gguf_adapter",
    "write_peft_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
