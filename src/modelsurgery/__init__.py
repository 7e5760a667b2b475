"""Change how a language model behaves by editing a few of its weights.

The public names, loaded when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelsurgery.apply.arrival import Arrival
    from modelsurgery.apply.copying import EditedCopy, apply_to_copy
    from modelsurgery.apply.in_memory import edited
    from modelsurgery.apply.in_place import EditedInPlace, apply_in_place
    from modelsurgery.apply.object_copy import CopiedObjects, apply_to_object_store
    from modelsurgery.apply.plan import Plan, TypePlan, plan_surgery
    from modelsurgery.apply.undoing import Undone, undo
    from modelsurgery.apply.verification import Verification, verify
    from modelsurgery.checkpoint.diff import TensorDifference, compare_checkpoints
    from modelsurgery.checkpoint.directory import Checkpoint, open_checkpoint
    from modelsurgery.checkpoint.layouts import (
        GateLayout,
        GateMatrix,
        find_gate_matrices,
        load_layout,
    )
    from modelsurgery.data.demo import demo_model_path
    from modelsurgery.data.texts import LabeledText, LabeledTexts, Split, load_texts, split_texts
    from modelsurgery.edit.edit import Edit, make_edit
    from modelsurgery.edit.edit_file import load_edit, save_edit
    from modelsurgery.edit.probe import Probe, load_probe, save_probe
    from modelsurgery.edit.region import Region, RowScores, score_rows, select_region
    from modelsurgery.errors import SurgeryError
    from modelsurgery.evaluation.evaluating import Evaluation, evaluate
    from modelsurgery.export import GgufAdapter, PeftAdapter, write_gguf_adapter, write_peft_adapter
    from modelsurgery.model.hidden_states import HiddenStates, extract_hidden_states
    from modelsurgery.model.language_model import LanguageModel
    from modelsurgery.model.loading import load_model
    from modelsurgery.model.probe_fitting import fit_probe, fit_probe_on_texts
    from modelsurgery.model.wrapping import wrap
    from modelsurgery.pipeline.recipe import Recipe
    from modelsurgery.pipeline.running import run_recipe
    from modelsurgery.search.edit_fitting import fit_edit

_MODULES = {
    "Arrival": "apply.arrival",
    "Checkpoint": "checkpoint.directory",
    "CopiedObjects": "apply.object_copy",
    "Edit": "edit.edit",
    "EditedCopy": "apply.copying",
    "EditedInPlace": "apply.in_place",
    "Evaluation": "evaluation.evaluating",
    "GateLayout": "checkpoint.layouts",
    "GateMatrix": "checkpoint.layouts",
    "GgufAdapter": "export",
    "HiddenStates": "model.hidden_states",
    "LabeledText": "data.texts",
    "LabeledTexts": "data.texts",
    "LanguageModel": "model.language_model",
    "PeftAdapter": "export",
    "Plan": "apply.plan",
    "Probe": "edit.probe",
    "Recipe": "pipeline.recipe",
    "Region": "edit.region",
    "RowScores": "edit.region",
    "Split": "data.texts",
    "SurgeryError": "errors",
    "TensorDifference": "checkpoint.diff",
    "TypePlan": "apply.plan",
    "Undone": "apply.undoing",
    "Verification": "apply.verification",
    "apply_in_place": "apply.in_place",
    "apply_to_copy": "apply.copying",
    "apply_to_object_store": "apply.object_copy",
    "compare_checkpoints": "checkpoint.diff",
    "edited": "apply.in_memory",
    "demo_model_path": "data.demo",
    "evaluate": "evaluation.evaluating",
    "extract_hidden_states": "model.hidden_states",
    "find_gate_matrices": "checkpoint.layouts",
    "fit_edit": "search.edit_fitting",
    "fit_probe": "model.probe_fitting",
    "fit_probe_on_texts": "model.probe_fitting",
    "load_edit": "edit.edit_file",
    "load_layout": "checkpoint.layouts",
    "load_model": "model.loading",
    "load_probe": "edit.probe",
    "load_texts": "data.texts",
    "make_edit": "edit.edit",
    "open_checkpoint": "checkpoint.directory",
    "plan_surgery": "apply.plan",
    "run_recipe": "pipeline.running",
    "save_edit": "edit.edit_file",
    "save_probe": "edit.probe",
    "score_rows": "edit.region",
    "select_region": "edit.region",
    "split_texts": "data.texts",
    "undo": "apply.undoing",
    "verify": "apply.verification",
    "wrap": "model.wrapping",
    "write_gguf_adapter": "export",
    "write_peft_adapter": "export",
}

__all__ = [
    "Arrival",
    "Checkpoint",
    "CopiedObjects",
    "Edit",
    "EditedCopy",
    "EditedInPlace",
    "Evaluation",
    "GateLayout",
    "GateMatrix",
    "GgufAdapter",
    "HiddenStates",
    "LabeledText",
    "LabeledTexts",
    "LanguageModel",
    "PeftAdapter",
    "Plan",
    "Probe",
    "Recipe",
    "Region",
    "RowScores",
    "Split",
    "SurgeryError",
    "TensorDifference",
    "TypePlan",
    "Undone",
    "Verification",
    "apply_in_place",
    "apply_to_copy",
    "apply_to_object_store",
    "compare_checkpoints",
    "demo_model_path",
    "edited",
    "evaluate",
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
    "wrap",
    "write_gguf_adapter",
    "write_peft_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
