"""What a process of a model split by transformers' tensor parallelism has, as lines of JSON.

python -m torch.distributed.run --standalone --nproc-per-node 2 tests/tensor_parallel.py DIR
"""

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from modelsurgery import wrap
from modelsurgery.errors import UnsupportedModelError
from tiny import tiny_tokenizer


def inputs_of_gates(model: Any) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
    """What each gate projection reads, and the shape of what it gives here."""
    found = []

    def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        found.append((inputs[0], tuple(output.shape)))

    for name, module in model.named_modules():
        if name.endswith("gate_proj"):
            module.register_forward_hook(hook)
    with torch.inference_mode():
        model(input_ids=torch.tensor([[1, 7, 9, 14, 11, 23, 8, 30]]))
    return found


def main(directory: str) -> None:
    """Compare the split model with the whole one, and try to use it."""
    torch.distributed.init_process_group("gloo")
    split = AutoModelForCausalLM.from_pretrained(
        directory, distributed_config=DistributedConfig(tp_size=2)
    )
    whole = AutoModelForCausalLM.from_pretrained(directory)
    pairs = zip(inputs_of_gates(split), inputs_of_gates(whole), strict=True)
    apart = [float((one[0] - other[0]).abs().max()) for one, other in pairs]
    said = ""
    try:
        wrap(split, tiny_tokenizer(), checkpoint=directory)
    except UnsupportedModelError as error:
        said = str(error)
    here = {"apart": apart, "said": said, "shape": inputs_of_gates(split)[0][1]}
    sys.stdout.write(json.dumps(here) + "\n")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
