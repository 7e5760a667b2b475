"""Change how a language model behaves by editing a few of its weights.

The public names, loaded when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # as themselves: type checkers take that for public
    from modelsurgery.apply.arrival import Arrival as Arrival
    from modelsurgery.apply.copying import EditedCopy as EditedCopy
    from modelsurgery.apply.copying import apply_to_copy as apply_to_copy
    from modelsurgery.apply.in_memory import edited as edited
    from modelsurgery.apply.in_place import EditedInPlace as EditedInPlace
    from modelsurgery.apply.in_place import apply_in_place as apply_in_place
    from modelsurgery.apply.object_copy import CopiedObjects as CopiedObjects
    from modelsurgery.apply.object_copy import apply_to_object_store as apply_to_object_store
    from modelsurgery.apply.plan import Plan as Plan
    from modelsurgery.apply.plan import TypePlan as TypePlan
    from modelsurgery.apply.plan import plan_surgery as plan_surgery
    from modelsurgery.apply.undoing import Undone as Undone
    from modelsurgery.apply.undoing import undo as undo
    from modelsurgery.apply.verification import Verification as Verification
    from modelsurgery.apply.verification import verify as verify
    from modelsurgery.checkpoint.diff import TensorDifference as TensorDifference
    from modelsurgery.checkpoint.diff import compare_checkpoints as compare_checkpoints
    from modelsurgery.checkpoint.directory import Checkpoint as Checkpoint
    from modelsurgery.checkpoint.directory import open_checkpoint as open_checkpoint
    from modelsurgery.checkpoint.layouts import GateLayout as GateLayout
    from modelsurgery.checkpoint.layouts import GateMatrix as GateMatrix
    from modelsurgery.checkpoint.layouts import find_gate_matrices as find_gate_matrices
    from modelsurgery.checkpoint.layouts import load_layout as load_layout
    from modelsurgery.data.demo import demo_model_path as demo_model_path
    from modelsurgery.data.texts import LabeledText as LabeledText
    from modelsurgery.data.texts import LabeledTexts as LabeledTexts
    from modelsurgery.data.texts import Split as Split
    from modelsurgery.data.texts import load_texts as load_texts
    from modelsurgery.data.texts import split_texts as split_texts
    from modelsurgery.edit.edit import Edit as Edit
    from modelsurgery.edit.edit import make_edit as make_edit
    from modelsurgery.edit.edit_file import load_edit as load_edit
    from modelsurgery.edit.edit_file import save_edit as save_edit
    from modelsurgery.edit.probe import Probe as Probe
    from modelsurgery.edit.probe import load_probe as load_probe
    from modelsurgery.edit.probe import save_probe as save_probe
    from modelsurgery.edit.region import Region as Region
    from modelsurgery.edit.region import RowScores as RowScores
    from modelsurgery.edit.region import score_rows as score_rows
    from modelsurgery.edit.region import select_region as select_region
    from modelsurgery.errors import SurgeryError as SurgeryError
    from modelsurgery.evaluation.evaluating import Evaluation as Evaluation
    from modelsurgery.evaluation.evaluating import evaluate as evaluate
    from modelsurgery.export.gguf import GgufAdapter as GgufAdapter
    from modelsurgery.export.gguf import write_gguf_adapter as write_gguf_adapter
    from modelsurgery.export.peft import PeftAdapter as PeftAdapter
    from modelsurgery.export.peft import write_peft_adapter as write_peft_adapter
    from modelsurgery.model.hidden_states import HiddenStates as HiddenStates
    from modelsurgery.model.hidden_states import extract_hidden_states as extract_hidden_states
    from modelsurgery.model.language_model import LanguageModel as LanguageModel
    from modelsurgery.model.loading import load_model as load_model
    from modelsurgery.model.probe_fitting import fit_probe as fit_probe
    from modelsurgery.model.probe_fitting import fit_probe_on_texts as fit_probe_on_texts
    from modelsurgery.model.wrapping import wrap as wrap
    from modelsurgery.pipeline.recipe import Recipe as Recipe
    from modelsurgery.pipeline.running import run_recipe as run_recipe
    from modelsurgery.search.edit_fitting import fit_edit as fit_edit

_NAMES = {
    "apply.arrival": ("Arrival",),
    "apply.copying": ("EditedCopy", "apply_to_copy"),
    "apply.in_memory": ("edited",),
    "apply.in_place": ("EditedInPlace", "apply_in_place"),
    "apply.object_copy": ("CopiedObjects", "apply_to_object_store"),
    "apply.plan": ("Plan", "TypePlan", "plan_surgery"),
    "apply.undoing": ("Undone", "undo"),
    "apply.verification": ("Verification", "verify"),
    "checkpoint.diff": ("TensorDifference", "compare_checkpoints"),
    "checkpoint.directory": ("Checkpoint", "open_checkpoint"),
    "checkpoint.layouts": ("GateLayout", "GateMatrix", "find_gate_matrices", "load_layout"),
    "data.demo": ("demo_model_path",),
    "data.texts": ("LabeledText", "LabeledTexts", "Split", "load_texts", "split_texts"),
    "edit.edit": ("Edit", "make_edit"),
    "edit.edit_file": ("load_edit", "save_edit"),
    "edit.probe": ("Probe", "load_probe", "save_probe"),
    "edit.region": ("Region", "RowScores", "score_rows", "select_region"),
    "errors": ("SurgeryError",),
    "evaluation.evaluating": ("Evaluation", "evaluate"),
    "export.gguf": ("GgufAdapter", "write_gguf_adapter"),
    "export.peft": ("PeftAdapter", "write_peft_adapter"),
    "model.hidden_states": ("HiddenStates", "extract_hidden_states"),
    "model.language_model": ("LanguageModel",),
    "model.loading": ("load_model",),
    "model.probe_fitting": ("fit_probe", "fit_probe_on_texts"),
    "model.wrapping": ("wrap",),
    "pipeline.recipe": ("Recipe",),
    "pipeline.running": ("run_recipe",),
    "search.edit_fitting": ("fit_edit",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
