"""Where an artifact comes from: versions, seed and input hashes, stored in everything we write.

It holds no time, user, host or path, so that the same inputs give the same bytes.
"""

import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

PACKAGES = (
    "modelsurgery",
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "ml_dtypes",
    "scikit-learn",
)


def installed_versions() -> dict[str, str]:
    """Version by package name, read without importing the packages."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


@dataclass(frozen=True)
class Provenance:
    """What went into an artifact."""

    # Version by package name, and `python`; by default those of this process.
    versions: dict[str, str] = field(default_factory=installed_versions)
    seed: int | None = None  # the seed of everything random on the way, None where nothing was
    # SHA-256 by the name of the input (`texts`, `probe`, …).
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # the choices made, as JSON values

    def to_json(self) -> dict[str, Any]:
        """The same facts as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Provenance":
        """Read back what `to_json` gave."""
        return cls(
            versions=dict(content.get("versions", {})),
            seed=content.get("seed"),
            inputs=dict(content.get("inputs", {})),
            settings=dict(content.get("settings", {})),
        )
