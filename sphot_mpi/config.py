"""The configuration: a file over a preset, and the errors it can have.

Every default lives in ``presets/*.toml``; the models only say what is allowed.
A user's file overlays a preset; what comes out is immutable and is passed on,
section by section.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from sphot_mpi.config_report import Problem, describe_problems
from sphot_mpi.config_sections import (
    ApertureConfig,
    CoreConfig,
    FinderConfig,
    PrepConfig,
    PsfCalibConfig,
    PsfConfig,
    Section,
)
from sphot_mpi.errors import ConfigError
from sphot_mpi.toml_text import format_toml

PRESETS = ("best", "sphot", "sphot-calibrated")

#: What each preset overlays, from the ground up.
_LAYERS = {"best": ("sphot", "best"), "sphot": ("sphot",), "sphot-calibrated": ("sphot", "sphot-calibrated")}


class Config(Section):
    """The whole configuration; immutable."""

    preset: Literal["best", "sphot", "sphot-calibrated"]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    prep: PrepConfig
    core: CoreConfig
    psf_calib: Annotated[PsfCalibConfig, Field(alias="psf-calib")]
    psf: PsfConfig
    aperture: ApertureConfig

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        kernel, stars = self.psf_calib.method, "joint" if self.psf.method == "joint" else "anchors"
        if self.psf_calib.in_mainloop and kernel != stars:
            msg = (
                f'psf-calib.method = "{kernel}" cannot calibrate psf.method = "{self.psf.method}"; '
                f'set psf-calib.method = "{stars}", or psf-calib.in_mainloop = false'
            )
            raise ValueError(msg)
        if self.core.base_filter not in self.prep.filters:
            filters = ", ".join(self.prep.filters)
            msg = f"core.base_filter = {self.core.base_filter} must be one of prep.filters = {filters}"
            raise ValueError(msg)
        return self

    def to_toml(self) -> str:
        """Return every value as TOML text that `load_config` reads back to an equal object."""
        return format_toml(self.model_dump(by_alias=True))

    def digest(self) -> str:
        """SHA-256 (hex) of all values that can change a result; the preset's name is none of them."""
        return hashlib.sha256(format_toml(self.model_dump(by_alias=True, exclude={"preset"})).encode()).hexdigest()

    def replaced(self, changes: Mapping[str, Any]) -> "Config":
        """Return a validated copy with some values changed.

        Parameters
        ----------
        changes : mapping
            As a configuration file holds them: ``{"psf": {"th_min": 3.0}, "seed": 1}``.

        Returns
        -------
        Config
            The changed copy.

        Raises
        ------
        ConfigError
            As `load_config`.
        """
        return _validated(_overlaid(self.model_dump(by_alias=True), changes), "the changed configuration")

    def random(self, galaxy: str, filter_name: str) -> np.random.Generator:
        """Random numbers that depend on the seed, the galaxy and the filter, and on nothing else."""
        name = hashlib.sha256(f"{galaxy}\0{filter_name}".encode()).digest()
        return np.random.default_rng([self.seed, *np.frombuffer(name, dtype="<u4").tolist()])


def load_config(path: Path | str | None = None, preset: str | None = None) -> Config:
    """Read a configuration file over a preset.

    Parameters
    ----------
    path : path or None
        TOML file; None: the preset alone.
    preset : str or None
        One of `PRESETS`; None: what the file's ``preset`` says, or "best".

    Returns
    -------
    Config
        Validated and immutable.

    Raises
    ------
    ConfigError
        If the file cannot be read or holds anything that is not allowed; the
        message lists all problems, each with section, key, what was given and
        what is allowed.
    """
    values = {} if path is None else _read_toml(Path(path))
    source = "the command line" if path is None else str(path)
    chosen = preset if preset is not None else values.get("preset", "best")
    if chosen not in PRESETS:
        given = "--preset" if preset is not None else "preset"
        msg = f"{source}: {given} = {chosen!r} is not known; it must be one of {', '.join(PRESETS)}."
        raise ConfigError(msg)
    merged: dict[str, Any] = {}
    for layer in _LAYERS[chosen]:
        merged = _overlaid(merged, tomllib.loads(_preset_text(layer)))
    return _validated(_overlaid(merged, {**values, "preset": chosen}), source)


def _preset_text(name: str) -> str:
    return resources.files("sphot_mpi").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path}: the configuration file cannot be read ({error.strerror}); give another with --config."
        raise ConfigError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: this is not a TOML file ({error}); mend it there."
        raise ConfigError(msg) from error


def _overlaid(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; every other value replaces."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = _overlaid(below, value)
        elif key == "scale_positions" and isinstance(value, dict) and isinstance(below, str):
            merged[key] = {"default": below, **value}
        else:
            merged[key] = value
    return merged


def _validated(values: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        found = [Problem.from_pydantic(dict(item)) for item in error.errors(include_url=False)]
        raise ConfigError(describe_problems(source, found, known_keys())) from error


def known_keys() -> dict[str, tuple[str, ...]]:
    """Keys by section; section "" holds what stands above all sections."""
    sections: dict[str, tuple[str, ...]] = {"": tuple(f.alias or n for n, f in Config.model_fields.items())}
    for name, model in Config.model_fields.items():
        if isinstance(model.annotation, type) and issubclass(model.annotation, BaseModel):
            sections[model.alias or name] = tuple(model.annotation.model_fields)
    sections["psf.finder_kwargs"] = tuple(FinderConfig.model_fields)
    return sections
