"""What `surgery rivals` and `surgery ablations` compare, and on which model."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from modelsurgery.data import demo
from modelsurgery.data.behaviors import BehaviorFile
from modelsurgery.search.fitting import RULE_TEXTS

DIVERGENCES = (0.01, 0.02, 0.05)
PROMPTS = 150


class RivalsPlan(BaseModel):
    """What to compare on which model.

    Attributes:
        kind: other methods, or the rules with one thing changed each.
        model: directory, name of a fetched model or id of the Hub; `demo` is the model that
            ships with the package.
        behavior: what is to change, as its file says.
        direction: away from it, or toward it; None takes the behavior's own.
        methods: names of methods; none takes all.
        divergences: mean KL(base ‖ changed) on validation text, nats per token, that each method is
            brought to.
        seeds: of texts, prompts and samples; each is measured.
        texts: training texts of each label, at most.
        prompts: held-out prompts, at most.
        prompt_set: name of the behavior's prompt set; None takes the first.
        judges: the first decides. None: the behavior's own.
        tasks: capability tasks.
        task_limit: items of each, at most.
        data: directory with local copies of public data sets, or `hub`.
        device: cpu, cuda, …; None takes a GPU where there is one.
        dtype: float32, bfloat16 or float16.
        out: run directory; None takes a new one below `surgery-runs`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["rivals", "ablations"] = "rivals"
    model: Annotated[str, AfterValidator(demo.current_name)]
    behavior: BehaviorFile
    direction: Literal["away", "toward"] | None = None
    methods: tuple[str, ...] = ()
    divergences: tuple[Annotated[float, Field(gt=0, lt=10)], ...] = DIVERGENCES
    seeds: tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...] = (0,)
    texts: Annotated[int, Field(ge=2)] = RULE_TEXTS
    prompts: Annotated[int, Field(ge=1)] = PROMPTS
    prompt_set: str | None = None
    judges: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    task_limit: Annotated[int, Field(ge=1)] | None = None
    data: Path | None = None
    device: str | None = None
    dtype: str | None = None
    out: Path | None = None

    @property
    def is_demo_model(self) -> bool:
        """Whether the model is the demo one."""
        return demo.is_demo_model(self.model)

    @property
    def place(self) -> Path | str:
        """What the model is loaded from."""
        return demo.demo_model_path() if self.is_demo_model else self.model

    @property
    def model_name(self) -> str:
        """Name of the model, without its directory."""
        return demo.DEMO if self.is_demo_model else Path(self.model).resolve().name

    @property
    def name(self) -> str:
        """What a new run directory is called."""
        return f"{self.model_name}-{self.behavior.name}-{self.kind}"

    @property
    def way(self) -> Literal["away", "toward"]:
        """Away from the behavior, or toward it."""
        return self.direction or self.behavior.direction
