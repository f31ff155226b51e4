"""Write nested plain values as TOML."""

import json
from collections.abc import Mapping
from typing import Any


def format_toml(values: Mapping[str, Any]) -> str:
    """Return TOML text: scalars first, then one table for every section.

    Parameters
    ----------
    values : mapping
        Strings, booleans, numbers, None (written as ``"none"``), sequences of
        these, and mappings; a mapping inside a section becomes an inline table.

    Returns
    -------
    str
        The text, ending with a newline.
    """
    plain = [f"{_key(k)} = {_value(v)}" for k, v in values.items() if not isinstance(v, Mapping)]
    blocks = ["\n".join(plain)] if plain else []
    for name, section in values.items():
        if isinstance(section, Mapping):
            lines = [f"{_key(k)} = {_value(v)}" for k, v in section.items()]
            blocks.append("\n".join([f"[{_key(name)}]", *lines]))
    return "\n\n".join(blocks) + "\n"


def _key(name: str) -> str:
    bare = name and all(c.isascii() and (c.isalnum() or c in "_-") for c in name)
    return name if bare else json.dumps(name)


def _value(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # a JSON string is a TOML basic string, but for the delete character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    return repr(value)
