"""How a recipe's model is loaded: the types of these fields, with their options."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from modelsurgery.pipeline.option import Option, Panel

Device = Annotated[
    str | None,
    Field(
        description="Device to run on, such as cpu, cuda or cuda:1; auto takes all GPUs, then "
        "memory, then disk."
    ),
    Option(Panel.MODEL, "a GPU if there is one", metavar="DEVICE"),
]
MaxMemory = Annotated[
    str | None,
    Field(
        description="With --device auto: memory for weights, such as 20GB for each device or "
        "0=40GB,cpu=16GB."
    ),
    Option(Panel.MODEL, "what is free", metavar="SIZE"),
]
Offload = Annotated[
    Path | None,
    Field(
        description="With --device auto: directory for weights on disk that cannot be read "
        "from the model's own files."
    ),
    Option(Panel.MODEL, metavar="DIR"),
]
DType = Annotated[
    str | None,
    Field(description="Load weights as float32, bfloat16 or float16."),
    Option(Panel.MODEL, "float32 on a CPU, otherwise as stored", metavar="DTYPE"),
]
TemplateName = Annotated[
    str | None,
    Field(description="Name of the chat template, for models that have several."),
    Option(Panel.MODEL, "the one named default", metavar="NAME"),
]
Now = Annotated[
    datetime | None,
    Field(description="Date and time to give to chat templates that print it."),
    Option(Panel.MODEL, "when the command starts", metavar="DATETIME"),
]
LayoutFile = Annotated[
    Path | None,
    Field(description="Layout file that locates the gate rows of an unsupported model family."),
    Option(Panel.MODEL, metavar="FILE"),
]
