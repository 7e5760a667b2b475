"""Where the weights of a model go: to one device, or to several, memory and disk (accelerate)."""

import importlib.util
import logging
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modelsurgery.apply.loaded_weights import disk_bytes, is_offloaded
from modelsurgery.errors import RecipeError, StorageError

AUTO = "auto"  # the device that means all of them
MEMORY = re.compile(r"(?:(\d+|cpu)=)?(\d+(?:\.\d+)?)\s*(KB|MB|GB|TB|KiB|MiB|GiB|TiB)", re.ASCII)
UNITS = {unit: 10 ** (3 * n) for n, unit in enumerate(("KB", "MB", "GB", "TB"), 1)} | {
    unit: 2 ** (10 * n) for n, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), 1)
}
ACCELERATE_LOGGER = "accelerate.big_modeling"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Where weights go."""

    # `cpu`, `cuda`, `cuda:1` and so on, or `auto`: all GPUs, then memory, then disk. None takes a
    # GPU if there is one.
    device: str | None = None
    # In place of `device`, a device for each module, as in transformers.
    device_map: str | dict[str, Any] | None = None
    # Memory for weights with several devices, as `memory_limits` reads it.
    max_memory: str | None = None
    # Directory for weights on disk that the checkpoint has in another form.
    offload: Path | None = None

    def __post_init__(self) -> None:
        if self.map is None:
            for name in ("max_memory", "offload"):
                if getattr(self, name) is not None:
                    option = name.replace("_", "-")
                    raise RecipeError(
                        f"--{option} is for a model on several devices; give --device auto too, "
                        "or omit it"
                    )
        elif importlib.util.find_spec("accelerate") is None:
            raise RecipeError(
                "a model on several devices needs accelerate; pip install 'modelsurgery[devices]'"
            )

    @property
    def map(self) -> str | dict[str, Any] | None:
        """The device map; None where all weights are on one device."""
        return AUTO if self.device_map is None and self.device == AUTO else self.device_map

    @property
    def main(self) -> torch.device:
        """The device, or of several the one that decides in which dtype weights are loaded."""
        return single_device(None if self.device == AUTO else self.device)

    @contextmanager
    def options(self) -> Iterator[dict[str, Any]]:
        """Arguments for `from_pretrained`, while it is called.

        Raises:
            StorageError: the directory for offloaded weights cannot be used, or is full.
        """
        options: dict[str, Any] = {"device_map": self.map}
        if self.max_memory is not None:
            options["max_memory"] = memory_limits(self.max_memory)
        if self.offload is not None:
            try:
                self.offload.mkdir(parents=True, exist_ok=True)
                place = tempfile.mkdtemp(prefix="surgery-offload-", dir=self.offload)
            except OSError as error:
                raise StorageError(
                    f"{self.offload}: cannot be written ({error.strerror}); choose another "
                    "directory with --offload"
                ) from error
            options["offload_folder"] = place
        quiet = logging.getLogger(ACCELERATE_LOGGER)
        before = quiet.level
        quiet.setLevel(logging.ERROR)  # what it says of offloaded weights is said by `placed`
        try:
            yield options
        except BaseException:
            shutil.rmtree(options.get("offload_folder", ""), ignore_errors=True)
            raise
        finally:
            quiet.setLevel(before)

    def placed(self, loaded: Any, options: dict[str, Any]) -> Any:
        """A model that was loaded with these options, on its device or devices."""
        if self.map is None:
            return loaded.to(self.main)
        folder = options.get("offload_folder")
        if folder is not None:
            weakref.finalize(loaded, shutil.rmtree, folder, ignore_errors=True)
        if is_offloaded(loaded):
            whole, on_disk = loaded.get_memory_footprint(), disk_bytes(loaded)
            log.warning(
                "weights do not all fit: %.0f %% are on disk, others may be in the CPU's memory, "
                "and are loaded again for every batch; a narrower dtype takes less memory",
                100 * on_disk / whole,
            )
        return loaded


def memory_limits(text: str) -> dict[int | str, int]:
    """Bytes for weights by device: GPUs by number, and `cpu`.

    The text is a size for each GPU and the CPU's memory, as `20GB`, or sizes by device, as
    `0=40GB,1=40GB,cpu=16GB`, which leaves others unused.

    Raises:
        RecipeError: it is neither.
    """
    read = [MEMORY.fullmatch(part.strip()) for part in text.split(",")]
    found = {one[1]: int(float(one[2]) * UNITS[one[3]]) for one in read if one is not None}
    if None in read or len(found) < len(read) or (None in found and len(found) > 1):
        raise RecipeError(
            f"max memory {text!r}; expected a size for each device, as 20GB, or one by device, as "
            "0=40GB,cpu=16GB"
        )
    if None not in found:
        return {name if name == "cpu" else int(str(name)): size for name, size in found.items()}
    size = found[None]
    return {**dict.fromkeys(range(torch.cuda.device_count()), size), "cpu": size}


def single_device(name: str | None) -> torch.device:
    """A device by its name; None takes a GPU if there is one.

    Raises:
        RecipeError: there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"device {name!r}; expected cpu, cuda, cuda:N or auto") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(f"device {name!r}, but torch finds no GPU; use --device cpu")
    return place
