"""LoRA fine-tuning, and what is made of two such adapters by arithmetic on weights."""

from modelsurgery.rivals.adapters import LoraSettings, train_adapter
from modelsurgery.rivals.intervention import Intervention
from modelsurgery.rivals.method import Materials, Method

USUAL = LoraSettings()
STEERING = LoraSettings(rank=32, alpha=64)


class LoraFineTuning(Method):
    """Fine-tuning on texts of what should come."""

    name = "lora"
    title = "LoRA fine-tuning"
    source = "Hu et al., LoRA, ICLR 2022, arXiv 2106.09685; a baseline of the Model Surgery paper"
    delivery = "weights or adapter"
    settings = str(USUAL)

    def fit(self, given: Materials) -> Intervention:
        """Train one adapter."""
        return train_adapter(given, given.opposite, USUAL).intervention()


class TaskVector(Method):
    """Fine-tuning on texts of what should go, taken off the weights."""

    name = "task-vector"
    title = "task vector, negated"
    source = "Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023, arXiv 2212.04089"
    delivery = "weights or adapter"
    settings = str(USUAL)
    note = "The reference fine-tunes all weights; here it is a LoRA adapter."

    def fit(self, given: Materials) -> Intervention:
        """Train one adapter the wrong way."""
        return train_adapter(given, given.shows, USUAL).intervention(sign=-1.0)


class ContrastiveWeights(Method):
    """The difference of two adapters, one for each side."""

    name = "contrastive-weights"
    title = "contrastive weight steering"
    source = (
        "Fierro and Roger, Steering Language Models with Weight Arithmetic, 2025, arXiv 2511.05408"
    )
    delivery = "weights or adapter"
    settings = str(STEERING)

    def fit(self, given: Materials) -> Intervention:
        """Train both adapters from the same start."""
        shows, opposite = (
            train_adapter(given, texts, STEERING) for texts in (given.shows, given.opposite)
        )
        return opposite.minus(shows).intervention()
