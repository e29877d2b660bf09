"""docs/settings.md, written from the settings themselves by `make docs`."""

import inspect
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from shopcast_build.learning.settings import BuildSettings

_INTRODUCTION = """# Settings of a build

`platform build-model` takes its settings from one TOML file (`--settings FILE`), whose tables are
the sections below, and from flags: `--set section.name=value` goes before the file, and the flags
that have a name of their own go before both. Whatever is not named has its default. The effective
settings are in the manifest of every published version. An example is
[examples/build_settings.toml](../examples/build_settings.toml).

This page is written by `make docs`.
"""
_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a table of lists of texts",
}
_SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def render() -> str:
    """The page."""
    parts = [_INTRODUCTION]
    parts += _section("", "", BuildSettings)
    for name, field in BuildSettings.model_fields.items():
        section: Any = field.annotation
        if _is_section(section):
            parts += _section(name, inspect.getdoc(section) or "", section)
    return "\n".join(parts).rstrip() + "\n"


def _section(name: str, about: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"## {name}\n" if name else "## Outside of any section\n"
    if about:
        yield f"{about}\n"
    yield "| setting | default | values | meaning |"
    yield "|---|---|---|---|"
    for field_name, field in model.model_fields.items():
        if not _is_section(field.annotation):
            cells = (f"`{field_name}`", _default(field), _values(field), field.description or "")
            yield "| " + " | ".join(cells) + " |"
    yield ""


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _default(field: FieldInfo) -> str:
    if field.default is None:
        return "none"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, tuple):
        return f"`{list(field.default)}`".replace("'", '"')
    if isinstance(field.default, str):
        return f'`"{field.default}"`'
    return f"`{field.default}`"


def _values(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    choices = _choices(annotation)
    if choices:
        prefix = "any of " if get_origin(annotation) is tuple else ""
        return prefix + ", ".join(f"`{choice}`" for choice in choices)
    if annotation is bool:
        return "`true`, `false`"
    bounds = [
        f"{word} {getattr(bound, sign)}"
        for bound in field.metadata
        for sign, word in _SIGNS.items()
        if hasattr(bound, sign)
    ]
    kind = _KINDS.get(get_origin(annotation) or annotation, "a date and time")
    return ", ".join([kind, *bounds])


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is tuple:
        return _choices(get_args(annotation)[0])
    return get_args(annotation) if get_origin(annotation) is Literal else ()


if __name__ == "__main__":
    sys.stdout.write(render())
