"""Say what is wrong with a configuration file, all problems at once."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Where pydantic speaks of Python, say it in the terms of the file.
_WORDS = {
    "string_pattern_mismatch": "must be a name of letters, digits, _, + or -",
    "model_type": "must be a section of keys",
    "dict_type": "must be a table of keys",
    "tuple_type": "must be a list in brackets",
    "missing": "needs one value more",
    "too_long": "has too many values",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Parameters
    ----------
    section, key : str
        Where; empty: above all sections, or the section as a whole.
    given : str
        What stands there.
    allowed : str
        What may stand there; empty: the key itself is unknown.
    """

    section: str
    key: str
    given: str
    allowed: str

    @classmethod
    def from_pydantic(cls, error: Mapping[str, Any]) -> "Problem":
        """Translate one entry of pydantic's `ValidationError.errors`."""
        path = [str(part) for part in error["loc"]]
        nested = path[:2] == ["psf", "finder_kwargs"] and len(path) > 2
        depth = 2 if nested else 1 if len(path) > 1 else 0
        unknown = error["type"] == "extra_forbidden"
        allowed = str(error["msg"]).removeprefix("Value error, ").replace("Input should", "must")
        allowed = _WORDS.get(error["type"], allowed)
        # a rule over several keys carries its own words; the section's dump would only hide them
        rule = error["type"] == "value_error" and isinstance(error["input"], dict) and len(path) <= 1
        given = "" if rule else _shown(error["input"])
        return cls(
            section=".".join(path[:depth] if not rule else path),
            key="" if rule else ".".join(path[depth:]),
            given=given,
            allowed="" if unknown else allowed,
        )


def _shown(value: Any) -> str:
    text = f"{value!r}" if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else text[:57] + "..."


def describe_problems(source: str, problems: Sequence[Problem], known: Mapping[str, Sequence[str]]) -> str:
    """Return one message about all problems, each in one sentence.

    Parameters
    ----------
    source : str
        File that holds them.
    problems : sequence of Problem
        At least one.
    known : mapping
        Known keys by section, for suggestions.

    Returns
    -------
    str
        One sentence, or a heading and a line for each problem.
    """
    lines = [_sentence(problem, known) for problem in problems]
    if len(lines) == 1:
        return f"{source}: {lines[0]}"
    return "\n".join([f"{source}: {len(lines)} problems.", *(f"  {line}" for line in lines)])


def _sentence(problem: Problem, known: Mapping[str, Sequence[str]]) -> str:
    where = f"[{problem.section}] " if problem.section else ""
    if not problem.allowed:
        return f"{where}{problem.key} = {problem.given} is not a known key{_suggestion(problem, known)}."
    if not problem.key:
        return f"{where}{problem.allowed}."
    return f"{where}{problem.key} = {problem.given}: {problem.allowed}."


def _suggestion(problem: Problem, known: Mapping[str, Sequence[str]]) -> str:
    same = {key.lower(): key for key in known.get(problem.section, ())}
    near = difflib.get_close_matches(problem.key.lower(), same, n=1)
    if near:
        return f"; the nearest is {same[near[0]]}"
    elsewhere = [
        f"[{section}] {key}"
        for section, keys in known.items()
        for key in difflib.get_close_matches(problem.key, keys, n=1, cutoff=0.8)
        if section
    ]
    if elsewhere:
        return f"; there is {elsewhere[0]}"
    return f"; known here: {', '.join(known.get(problem.section, ()))}"
