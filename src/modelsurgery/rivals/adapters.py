"""Training LoRA adapters on texts (PEFT), and what they add to the weights.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022: ΔW = (α / r) · B A. The
adapter is taken out of the model after training; its strength multiplies ΔW.
"""

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from modelsurgery.data.texts import LabeledText
from modelsurgery.errors import EvaluationError
from modelsurgery.model.activations.texts import TokenizedText
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.rivals.intervention import Reweighted
from modelsurgery.rivals.method import Materials

WARMUP = 0.1  # share of the steps
CLIP = 1.0  # norm of the gradient
Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class LoraSettings:
    """How adapters are trained."""

    rank: int = 8  # r
    alpha: int = 16  # α
    rate: float = 2e-4  # learning rate of AdamW, after a linear warm-up, falling to 0
    epochs: int = 3  # passes over the texts
    batch: int = 8  # texts in a step

    def __str__(self) -> str:
        """One line."""
        return (
            f"rank {self.rank}, alpha {self.alpha}, all linear layers, AdamW {self.rate:g}, "
            f"{self.epochs} epochs, batch {self.batch}"
        )


@dataclass(frozen=True)
class Factors:
    """What adapters add: left [out, r] times right [r, in], by path of the linear layer, f32."""

    by_path: Mapping[str, Pair]

    def minus(self, other: "Factors") -> "Factors":
        """The difference of two adapters of the same layers."""
        return Factors(
            {
                path: (
                    torch.cat([left, -other.by_path[path][0]], dim=1),
                    torch.cat([right, other.by_path[path][1]]),
                )
                for path, (left, right) in self.by_path.items()
            }
        )

    def intervention(self, sign: float = 1.0) -> Reweighted[Pair]:
        """W + strength · sign · ΔW."""

        def change(matrix: torch.Tensor, factors: Pair, strength: float) -> torch.Tensor:
            left, right = (one.to(matrix.device) for one in factors)
            return matrix + strength * sign * (left @ right)

        touched = sum(len(left) * right.shape[1] for left, right in self.by_path.values())
        return Reweighted(self.by_path, change, touched)


@contextmanager
def adapted(model: LanguageModel, settings: LoraSettings, seed: int) -> Iterator[Any]:
    """The model as a PEFT model with fresh adapters in all linear layers of its blocks.

    Raises:
        EvaluationError: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise EvaluationError(
            "training adapters needs peft; pip install 'modelsurgery[rivals]', or leave these "
            "methods out with --method"
        ) from error
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # of peft about its own calls
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = peft.get_peft_model(model.model, config)
    try:
        yield wrapped
    finally:
        wrapped.unload()
        model.model.requires_grad_(False)
        model.model.eval()


def factors_of(wrapped: Any) -> Factors:
    """What the adapters of a PEFT model add."""
    found = {}
    for name, module in wrapped.base_model.model.named_modules():
        if getattr(module, "lora_A", None):
            (adapter,) = module.lora_A
            right = module.lora_A[adapter].weight.detach().float().clone()
            left = module.lora_B[adapter].weight.detach().float() * module.scaling[adapter]
            found[name] = (left, right)
    return Factors(found)


def train_adapter(
    given: Materials, labeled: Sequence[LabeledText], settings: LoraSettings
) -> Factors:
    """What adapters add that were trained to predict texts (of an exchange the reply alone)."""
    model, texts = given.model, given.read(labeled)
    order = random.Random(given.seed)
    steps = settings.epochs * -(-len(texts) // settings.batch)
    with (
        adapted(model, settings, given.seed) as wrapped,
        given.progress("train adapter", settings.epochs * len(texts)) as advance,
    ):
        chosen = [one for one in wrapped.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(chosen, lr=settings.rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _linear(steps))
        for _ in range(settings.epochs):
            rows = list(range(len(texts)))
            order.shuffle(rows)
            for start in range(0, len(rows), settings.batch):
                some = [texts[row] for row in rows[start : start + settings.batch]]
                loss_of(wrapped, model, some).backward()
                torch.nn.utils.clip_grad_norm_(chosen, CLIP)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                advance(len(some))
        return factors_of(wrapped)


def loss_of(wrapped: Any, model: LanguageModel, texts: Sequence[TokenizedText]) -> torch.Tensor:
    """Mean loss of the predicted tokens of texts, nats."""
    batch = model.batch_of([one.ids for one in texts])
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, one in enumerate(texts):
        labels[row, : one.start] = -100
    loss: torch.Tensor = wrapped(**batch, labels=labels, use_cache=False).loss
    return loss


def _linear(steps: int) -> Any:
    """Up to 1 in the first tenth of the steps, and down to 0."""
    warm = max(1, round(WARMUP * steps))
    return lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
