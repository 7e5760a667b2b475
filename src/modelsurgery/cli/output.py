"""How verbs print: results for people or as JSON, progress beside them."""

import json
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from modelsurgery.cli.allocation import keep_freed_memory
from modelsurgery.report.untrusted import in_one_line, printable

if TYPE_CHECKING:
    from modelsurgery.files.progress import Progress


def print_content(content: dict[str, Any], as_json: bool) -> None:
    """Print keys and values, aligned, or one JSON object.

    For people what is None is left out, and names lose what could steer a terminal.
    """
    if as_json:
        print_json(content)
        return
    content = _without_none(content)
    width = max(map(len, content), default=0)
    for key, value in content.items():
        label = in_one_line(f"{key.replace('_', ' '):<{width}}")
        if _is_nested(value):
            print(f"{label.rstrip()}\n{textwrap.indent(printable(_outline(value)), '  ')}")
        else:
            print(f"{label}  {in_one_line(_shown(key, value))}")


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(content, ensure_ascii=False, allow_nan=False, default=str))


def print_differences(found: list[dict[str, Any]], as_json: bool, rows_shown: int) -> None:
    """Print tensors that differ, one a line, with their most changed rows below."""
    if as_json:
        print_json({"tensors": found})
        return
    for one in found:
        name = in_one_line(one["tensor"])
        if one["kind"] != "rows":
            print(f"{name}  differs: {one['kind']}")
            continue
        count, total = len(one["rows"]), one["row_count"]
        print(f"{name}  {count} of {total} rows, norm {one['relative_norm']:.3%} of base")
        largest = sorted(zip(one["norms"], one["rows"], strict=True), reverse=True)[:rows_shown]
        for norm, row in largest:
            print(f"  row {row}  norm of change {norm:.4g}")
    print(f"{len(found)} tensors differ" if found else "the weights are the same")


def console() -> Console:
    """Where tables and answers are printed: as they are, without line breaks of its own."""
    return Console(highlight=False, soft_wrap=True)


def print_plan(content: dict[str, Any]) -> None:
    """Print what a run is going to do, on stderr."""
    from modelsurgery.report.scheduling import plan_lines

    print("\n".join(plan_lines(content)), file=sys.stderr)


@contextmanager
def showing_progress() -> Iterator["Progress"]:
    """Progress on stderr, drawn when it is a terminal; open it before slow imports."""
    from modelsurgery.report.live import live_progress

    # The very stderr of now: what silences a library for a while must not silence progress.
    with live_progress(Console(file=sys.stderr)) as progress:
        yield progress


@contextmanager
def using_a_model() -> Iterator["Progress"]:
    """Progress of a verb that loads a model; memory that is freed stays with this process."""
    with showing_progress() as progress:
        keep_freed_memory()
        yield progress


def _without_none(value: Any) -> Any:
    """The same without keys that have no value, at any depth."""
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list | tuple) else value


def _shown(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and "bytes" in key:
        return _size(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict) and all(isinstance(one, int) for one in value.values()):
        return ", ".join(f"{name} ({count:,})" for name, count in value.items()) or "none"
    if isinstance(value, dict) and all(isinstance(one, float) for one in value.values()):
        return ", ".join(f"{name} {number:.2g}" for name, number in value.items()) or "none"
    return str(value)


def _is_nested(value: Any) -> bool:
    """Whether a value holds others that are more than a number or a word."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(one, dict | list) for one in inside)


def _outline(value: Any) -> str:
    import yaml

    plain = json.loads(json.dumps(value, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip()


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
