"""Settings of an edit, and the space of them that is searched."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from modelsurgery.checkpoint.layouts import GateMatrix
from modelsurgery.edit.probe import DirectionSource
from modelsurgery.edit.region import PAPER_ROWS, row_count
from modelsurgery.rules.rule_names import Rule

Window = tuple[int, int]  # first and last layer, counted 1..L
Source = DirectionSource | Rule  # what an edit comes from: what a probe gives, or another rule
ROWS = (0.003, 0.08)  # shares of all gate rows
GOOD_ROWS = 0.02  # where small models of ours did best
RULE_ROWS = (0.002, 0.5)
DAMPINGS = (None, 0.01, 1.0)
LATER = "-"


@dataclass(frozen=True)
class Setting:
    """All that an edit depends on but its strength."""

    # Layer of the probe that gives the direction, 1..L; None for a rule without one.
    probe_layer: int | None
    rule: Source  # what the paper's rule takes from the probe, or the name of another rule
    rows: float | int  # share (float) or count (int) of gate rows
    window: Window | None = None  # layers that are edited, first and last, 1..L; None for all
    # Every layer of the window gives the same share of its rows; else the rows with best rows of
    # the whole window are taken, wherever they are.
    per_layer: bool = False
    damping: float | None = None  # of rows, for rules that have one; None is the rule's own

    @property
    def kind(self) -> tuple[Any, ...]:
        """The setting without its number of rows and damping."""
        return (self.probe_layer, self.rule, self.window, self.per_layer)

    def to_json(self) -> dict[str, Any]:
        """Plain values; as before there was a damping where it is None, so that studies go on."""
        return {name: one for name, one in asdict(self).items() if (name, one) != ("damping", None)}


@dataclass(frozen=True)
class SearchSpace:
    """What is searched. A single value of something fixes it."""

    probe_layers: tuple[int | None, ...]  # layers of the probes, 1..L
    rules: tuple[Source, ...]  # what is taken from probes, or names of other rules
    windows: tuple[Window | None, ...]  # windows of layers; None for all
    # Least and largest share of all gate rows, or one share (float) or count (int).
    rows: tuple[float, float] | float | int
    per_layer: tuple[bool, ...]  # ways of choosing the rows
    layer_count: int  # layers L of the model
    dampings: tuple[float | None, ...] = (None,)  # of rows; None is the rule's own

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space in Optuna's terms."""
        parts: dict[str, BaseDistribution] = {
            "probe_layer": CategoricalDistribution(self.probe_layers),
            "rule": CategoricalDistribution(self.rules),
            "window": CategoricalDistribution([_named(window) for window in self.windows]),
            "per_layer": CategoricalDistribution(self.per_layer),
        }
        if isinstance(self.rows, tuple):
            parts["rows"] = FloatDistribution(*self.rows, log=True)
        if len(self.dampings) > 1:
            parts["damping"] = CategoricalDistribution(self.dampings)
        return parts

    def setting(self, parameters: Mapping[str, Any]) -> Setting:
        """The setting that Optuna's parameters mean."""
        window = parameters["window"]
        first, _, last = window.partition(LATER)
        return Setting(
            parameters["probe_layer"],
            parameters["rule"],
            parameters.get("rows", self.rows),
            None if window == "all" else (int(first), int(last)),
            parameters["per_layer"],
            parameters.get("damping", self.dampings[0]),
        )

    def parameters(self, setting: Setting) -> dict[str, Any]:
        """Optuna's parameters of a setting."""
        found = asdict(setting) | {"window": _named(setting.window)}
        return {name: found[name] for name in self.distributions()}

    def first_settings(self) -> tuple[Setting, ...]:
        """What a search starts with: the paper's setting, then what did well on small models.

        The mean difference, read at each layer and applied everywhere; then read in the middle and
        applied to one part of the layers after another.
        """
        middle = self.probe_layers[len(self.probe_layers) // 2]
        rule = "mean-difference" if "mean-difference" in self.rules else self.rules[0]
        paper = Setting(
            self.probe_layers[0],
            "W1" if "W1" in self.rules else self.rules[0],
            self._rows(PAPER_ROWS),
            self.windows[0],
            self.per_layer[0],
        )
        rows, chosen = self._rows(GOOD_ROWS), self.per_layer[0]
        read = [Setting(layer, rule, rows, self.windows[0], chosen) for layer in self.probe_layers]
        applied = [Setting(middle, rule, rows, window, chosen) for window in self.windows[1:5]]
        return tuple(dict.fromkeys([paper, *read, *applied]))

    def to_json(self) -> dict[str, Any]:
        """Plain values; as before there was a damping where it is None, so that studies go on."""
        left_out = ("dampings", (None,))
        return {name: one for name, one in asdict(self).items() if (name, one) != left_out}

    def fitting(self, gates: Sequence[GateMatrix]) -> "SearchSpace":
        """The space without windows that have not as many rows as it may ask for.

        Raises:
            RecipeError: no window has.
        """
        most = self.rows[1] if isinstance(self.rows, tuple) else self.rows
        total = sum(gate.rows for gate in gates)
        wanted = row_count(most, total, total)

        def inside(window: Window | None) -> int:
            first, last = window or (1, self.layer_count)
            return sum(gate.rows for gate in gates if first <= gate.block + 1 <= last)

        windows = tuple(window for window in self.windows if inside(window) >= wanted)
        if not windows:
            row_count(most, total, max(inside(window) for window in self.windows))
        return replace(self, windows=windows)

    def features(self, setting: Setting) -> list[float]:
        """What the strength that a budget allows may depend on, as numbers."""
        first, last = setting.window or (1, self.layer_count)
        rows = setting.rows if isinstance(setting.rows, float) else 1.0
        return [
            math.log(rows),
            float(setting.per_layer),
            first / self.layer_count,
            (last - first + 1) / self.layer_count,
            *(float(setting.probe_layer == layer) for layer in self.probe_layers),
            *(float(setting.rule == rule) for rule in self.rules),
            *(float(setting.damping == one) for one in self.dampings[1:]),
        ]

    def _rows(self, wanted: float) -> float | int:
        if not isinstance(self.rows, tuple):
            return self.rows
        low, high = self.rows
        return min(max(wanted, low), high)


def default_space(
    layer_count: int,
    probe_layers: tuple[int | None, ...] | None = None,
    rules: tuple[Source, ...] = ("mean-difference", "W1-W0", "W1"),
) -> SearchSpace:
    """Windows by quarters of the layers: all, then later and middle ones first."""
    ends = [round(quarter * layer_count / 4) for quarter in range(5)]
    quarters = [(2, 3), (3, 4), (2, 4), (1, 2), (1, 3), (0, 4), (1, 4), (0, 2), (0, 3), (0, 1)]
    windows = [
        (ends[first] + 1, ends[last]) for first, last in quarters if ends[first] < ends[last]
    ]
    named = [None if window == (1, layer_count) else window for window in windows]
    return SearchSpace(
        probe_layers=probe_layers or default_probe_layers(layer_count),
        rules=rules,
        windows=tuple(dict.fromkeys([None, *named])),
        rows=ROWS,
        per_layer=(False, True),
        layer_count=layer_count,
    )


def default_probe_layers(layer_count: int) -> tuple[int, ...]:
    """The last layer, as the paper, then three quarters and half of the way."""
    layers = (layer_count, (3 * layer_count + 2) // 4, (layer_count + 1) // 2)
    return tuple(dict.fromkeys(layers))


def rule_space(layer_count: int, rule: Rule) -> SearchSpace:
    """What is left to search for a rule that gives directions and coefficients itself."""
    windows = default_space(layer_count).windows
    return SearchSpace((None,), (rule,), windows[:6], RULE_ROWS, (False,), layer_count, DAMPINGS)


def _named(window: Window | None) -> str:
    return "all" if window is None else f"{window[0]}{LATER}{window[1]}"
