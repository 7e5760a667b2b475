"""Other ways to steer a model, beside this library's, on the same texts and at the same damage.

A *method* learns from texts and gives an *intervention*, which changes a loaded model at any
strength (intervention.py). `matching` finds the strength at which it costs a given divergence; all
are then measured alike. A file holds one method, or a family of them that share their arithmetic.
"""

from collections.abc import Mapping
from typing import Literal

from modelsurgery.rivals.ablations import ABLATIONS
from modelsurgery.rivals.activation_addition import ActivationAddition, FeatureSubtraction
from modelsurgery.rivals.alphasteer import AlphaSteer
from modelsurgery.rivals.aura import Aura
from modelsurgery.rivals.contrastive_decoding import ContrastiveDecoding
from modelsurgery.rivals.directional_ablation import Biprojection, DirectionalAblation
from modelsurgery.rivals.edits import (
    LeastSquares,
    NaturalGradient,
    NaturalGradientSteps,
    PaperRule,
    RandomEdit,
)
from modelsurgery.rivals.fine_tuning import ContrastiveWeights, LoraFineTuning, TaskVector
from modelsurgery.rivals.heretic import Heretic
from modelsurgery.rivals.intervention import Intervention
from modelsurgery.rivals.leace import LeastSquaresErasure
from modelsurgery.rivals.method import Materials, Method, gather_materials
from modelsurgery.rivals.preference import PreferenceOptimization
from modelsurgery.rivals.profs import ProjectionFilter
from modelsurgery.rivals.pruning import Wanda
from modelsurgery.rivals.system_prompt import SystemPrompt
from modelsurgery.rivals.transport import LinearTransport

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        NaturalGradient(),
        NaturalGradientSteps(),
        LeastSquares(),
        PaperRule(),
        LoraFineTuning(),
        TaskVector(),
        ContrastiveWeights(),
        ActivationAddition(),
        DirectionalAblation(),
        Biprojection(),
        Heretic(),
        ProjectionFilter(),
        LeastSquaresErasure(),
        AlphaSteer(),
        Wanda(),
        Aura(),
        LinearTransport(),
        FeatureSubtraction(),
        PreferenceOptimization(),
        ContrastiveDecoding(),
        SystemPrompt(),
        RandomEdit(),
    )
}


def methods_of(kind: Literal["rivals", "ablations"]) -> Mapping[str, Method]:
    """All methods of a comparison, by name."""
    return ABLATIONS if kind == "ablations" else METHODS


__all__ = ["METHODS", "Intervention", "Materials", "Method", "gather_materials", "methods_of"]
