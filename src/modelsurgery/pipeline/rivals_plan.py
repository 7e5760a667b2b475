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
    """What to compare on which model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Other methods, or the rules with one thing changed each.
    kind: Literal["rivals", "ablations"] = "rivals"
    # Directory, name of a fetched model or id of the Hub; `demo` is the model that ships with the
    # package.
    model: Annotated[str, AfterValidator(demo.current_name)]
    behavior: BehaviorFile  # what is to change, as its file says
    # Away from it, or toward it; None takes the behavior's own.
    direction: Literal["away", "toward"] | None = None
    methods: tuple[str, ...] = ()  # names of methods; none takes all
    # Mean KL(base ‖ changed) on validation text, nats per token, that each method is brought to.
    divergences: tuple[Annotated[float, Field(gt=0, lt=10)], ...] = DIVERGENCES
    # Of texts, prompts and samples; each is measured.
    seeds: tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...] = (0,)
    texts: Annotated[int, Field(ge=2)] = RULE_TEXTS  # training texts of each label, at most
    prompts: Annotated[int, Field(ge=1)] = PROMPTS  # held-out prompts, at most
    prompt_set: str | None = None  # name of the behavior's prompt set; None takes the first
    # The first decides. None: the behavior's own.
    judges: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()  # capability tasks
    task_limit: Annotated[int, Field(ge=1)] | None = None  # items of each, at most
    data: Path | None = None  # directory with local copies of public data sets, or `hub`
    device: str | None = None  # cpu, cuda, …; None takes a GPU where there is one
    dtype: str | None = None  # float32, bfloat16 or float16
    out: Path | None = None  # run directory; None takes a new one below `surgery-runs`

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
