"""Injection and recovery: a campaign with artificial stars, and if wanted a turned and moved galaxy, of known truth.

The light is put into the real images with the PSF that was calibrated on them, by the simulator's renderer, which the
fitter does not use. A galaxy that is moved leaves behind what its fit did not explain. What comes out is a campaign
like any other: the unmodified program is run on it.
"""

import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.table import Table

from sphot_mpi.catalogue import Catalogue, read_catalogue
from sphot_mpi.catalogue_rows import MAX_NAME, Galaxy
from sphot_mpi.config import Config
from sphot_mpi.errors import InputError, OutputError, UsageError
from sphot_mpi.fit_renderer import FitRenderer
from sphot_mpi.inject_draw import (
    FilterScene,
    Injection,
    Move,
    StarPopulation,
    draw_fluxes,
    draw_positions,
    light_noise,
    scene_psf,
)
from sphot_mpi.inputs import read_galaxy
from sphot_mpi.model_images import render_model, working_psf
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Cutout, FilterFit, Image
from sphot_mpi.results_reader import ResultsReader, file_stem
from sphot_mpi.sersic import total_flux
from sphot_mpi.simulate_render import SersicScene, render_stars
from sphot_mpi.stored_fit import StoredFit, StoredFits
from sphot_mpi.stored_inputs import stored_config

log = logging.getLogger(__name__)

TRUTH, CATALOGUE, CONFIG = "truth.ecsv", "catalogue.csv", "sphot_config.toml"

_COMPONENT = ("r_eff", "n", "ellip", "theta")
#: Oversamplings that the simulator's renderer of galaxies can do.
_CELLS = 32

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Original:
    """A galaxy as it was observed and fitted."""

    galaxy: Galaxy
    cutouts: dict[str, Cutout]
    scenes: dict[str, FilterScene]
    window: tuple[int, int, int, int]

    @property
    def base(self) -> FilterScene:
        return self.scenes[self.galaxy.base_filter]


def inject_campaign(
    catalogue_path: Path,
    results_path: Path,
    folder: Path,
    plan: Injection,
    *,
    only: tuple[str, ...] = (),
    limit: int | None = None,
    overwrite: bool = False,
) -> int:
    """Write a campaign with artificial light, and its truth.

    Parameters
    ----------
    catalogue_path : Path
        Catalogue of the real images.
    results_path : Path
        Results of a campaign on it: PSF, noise, stars and galaxies are taken from there.
    folder : Path
        Made if missing. Gets ``catalogue.csv``, ``sphot_config.toml`` (the campaign's configuration), an HDF5 file a
        galaxy and copy, and ``truth.ecsv`` (a row a star or galaxy and filter).
    plan : Injection
        What to inject.
    only : tuple of str
        Names of galaxies; empty: all.
    limit : int or None
        At most so many galaxies.
    overwrite : bool
        Replace a campaign that is there.

    Returns
    -------
    int
        Galaxies written, copies counted.

    Raises
    ------
    CatalogueError, InputError, OutputError, UsageError
        If something cannot be read, written or done.
    """
    if (folder / CATALOGUE).exists() and not overwrite:
        msg = f"{folder / CATALOGUE}: the file exists; give --overwrite, or another folder with -o."
        raise OutputError(msg)
    with ResultsReader(results_path) as reader:
        config = stored_config(reader)
        catalogue = read_catalogue(catalogue_path, config, skip_invalid=True).select(only, limit)
        fits = StoredFits(reader)
        usable = [g for g in catalogue.galaxies if g.base_filter in fits.filters(g.name)]
        if not usable:
            msg = (
                f"{results_path}: it holds no fit of a galaxy of {catalogue_path}; name the results of that catalogue."
            )
            raise UsageError(msg)
        rows, truth = [], []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            populations = _populations(catalogue, fits)
            for original in _originals(usable, fits, config):
                for copy in range(plan.copies):
                    name, truth_rows = _write_copy(
                        folder, original, copy, plan, populations[original.galaxy.base_filter]
                    )
                    rows.append(_catalogue_row(folder, original.galaxy, name))
                    truth += truth_rows
            if not truth:
                msg = "there is nothing to inject: no --stars (or no room for them), and no --galaxies."
                raise UsageError(msg)
            _write_tables(folder, rows, truth, config, plan, results_path)
        except OSError as error:
            msg = f"{folder}: this cannot be written ({error}); free space or choose another -o."
            raise OutputError(msg) from error
    return len(rows)


def _populations(catalogue: Catalogue, fits: StoredFits) -> dict[str, StarPopulation]:
    """Return the stars that were found, by base filter."""
    populations = {}
    for base_filter in {galaxy.base_filter for galaxy in catalogue.galaxies}:
        members = [galaxy for galaxy in catalogue.galaxies if galaxy.base_filter == base_filter]
        found = [
            {name: stored.fit for name in g.filters if (stored := fits.get(g.name, name)) is not None} for g in members
        ]
        filters = dict.fromkeys(name for g in members for name in g.filters)
        populations[base_filter] = StarPopulation.of(found, base_filter, filters)
    return populations


def _originals(galaxies: list[Galaxy], fits: StoredFits, config: Config) -> Iterator[_Original]:
    renderer = FitRenderer(config)
    for galaxy in galaxies:
        cutouts = read_galaxy(galaxy.path, galaxy.name, galaxy.filters).cutouts
        scenes = {}
        for name in galaxy.filters:
            stored = fits.get(galaxy.name, name)
            if stored is None or name not in cutouts:
                continue  # it stays as it is, and has no truth
            scenes[name] = _scene(cutouts[name], stored, renderer.library(galaxy, name))
        if galaxy.base_filter not in scenes:
            msg = f"{galaxy.path}: there is no base filter {galaxy.base_filter} in it any more; put it back."
            raise InputError(msg)
        base = fits.get(galaxy.name, galaxy.base_filter)
        assert base is not None  # it has a scene
        yield _Original(
            galaxy=galaxy, cutouts=cutouts, scenes=scenes, window=(*base.frame.origin, *base.frame.shape[::-1])
        )


def _scene(cutout: Cutout, stored: StoredFit, library: LibraryPSF) -> FilterScene:
    fit = _in_full_frame(stored)
    (x0, y0), (height, width) = stored.frame.origin, stored.frame.shape
    if x0 + width > cutout.shape[1] or y0 + height > cutout.shape[0]:
        msg = f"galaxy {fit.galaxy!r}, {fit.filter}: the image is smaller than the fitted cutout; name its own results."
        raise InputError(msg)
    model = render_model(fit, cutout, library)
    variance, per_light = light_noise(cutout, model.sersic + model.sources, fit)
    return FilterScene(
        cutout=cutout, fit=fit, psf=scene_psf(working_psf(fit, library)),
        galaxy=model.sersic, variance=variance + per_light * np.maximum(model.sersic, 0.0), per_light=per_light,
    )  # fmt: skip


def _in_full_frame(stored: StoredFit) -> FilterFit:
    """Return the fit with its positions in the full image."""
    fit, (x0, y0) = stored.fit, stored.frame.origin
    sources = fit.sources.copy()
    sources["x_fit"] += x0
    sources["y_fit"] += y0
    return replace(
        fit,
        components=tuple(replace(c, x_0=c.x_0 + x0, y_0=c.y_0 + y0) for c in fit.components),
        sky=replace(fit.sky, x_ref=fit.sky.x_ref + x0, y_ref=fit.sky.y_ref + y0),
        sources=sources,
    )


def _write_copy(
    folder: Path, original: _Original, copy: int, plan: Injection, population: StarPopulation
) -> tuple[str, list[Row]]:
    """Write one copy of a galaxy; return its name and its truth."""
    galaxy, scenes, base = original.galaxy, original.scenes, original.base
    name = f"{galaxy.name}_inj{copy + 1}"
    if len(name.encode()) > MAX_NAME:
        msg = f"galaxy {galaxy.name!r}: its name is too long for a copy's ({name!r}); shorten it in the catalogue."
        raise InputError(msg)
    # nothing depends on which other galaxies are done
    rng = np.random.default_rng([plan.seed, zlib.crc32(galaxy.name.encode()), copy])
    x, y = draw_positions(rng, plan.stars, scenes.values(), original.window)
    if x.size < plan.stars:
        log.warning("%s: there is room for %d artificial stars, not %d", name, x.size, plan.stars)
    flux = draw_fluxes(rng, plan, population, base.star_error(x, y))
    ratios = population.colours(rng, x.size, scenes)
    ratios[galaxy.base_filter] = np.ones(x.size)
    largest = max(base.fit.components, key=lambda component: component.r_eff)
    move = Move.draw(rng, largest.r_eff) if plan.galaxy else None
    cutouts, truth = dict(original.cutouts), []
    for filter_name, scene in scenes.items():
        # a filter's positions contain its displacement against the base filter
        at = x + scene.fit.shift[0] - base.fit.shift[0], y + scene.fit.shift[1] - base.fit.shift[1]
        added = flux * ratios[filter_name]
        cutouts[filter_name] = _with_light(rng, scene, *at, added, move, plan)
        common: Row = {"name": name, "original": galaxy.name, "filter": filter_name, "fwhm": scene.psf.fwhm()}
        truth += _star_rows(common, *at, added, added / scene.star_error(*at))
        if move is not None:
            truth.append(_galaxy_row(common, scene.fit, move))
    _write_galaxy(folder / _file_name(name), cutouts)
    return name, truth


def _with_light(
    rng: np.random.Generator, scene: FilterScene, x: Image, y: Image, flux: Image, move: Move | None, plan: Injection
) -> Cutout:
    cutout = scene.cutout
    stars = render_stars(cutout.shape, scene.psf, x, y, flux)
    data, error = cutout.data + stars, cutout.error
    if plan.photon_noise:
        extra = scene.per_light * np.maximum(stars, 0.0)
        data = data + rng.standard_normal(cutout.shape) * np.sqrt(extra)
        error = None if error is None else np.sqrt(error**2 + extra)
    if move is not None:
        if _CELLS % scene.psf.oversample:
            msg = f"{scene.fit.filter}: --galaxies needs a PSF whose oversampling divides {_CELLS}; leave it out."
            raise InputError(msg)
        data = data - scene.galaxy
        for component in scene.fit.components:
            data = data + SersicScene.of(move.applied(component)).render(cutout.shape, scene.psf)
    return replace(cutout, data=data, error=error)


def _star_rows(common: Row, x: Image, y: Image, flux: Image, snr: Image) -> list[Row]:
    columns = zip(x.tolist(), y.tolist(), flux.tolist(), snr.tolist(), strict=True)
    nothing = dict.fromkeys(_COMPONENT, float("nan"))
    return [{**common, "kind": "star", "x": a, "y": b, "flux": f, "snr": s, **nothing} for a, b, f, s in columns]


def _galaxy_row(common: Row, fit: FilterFit, move: Move) -> Row:
    first = move.applied(fit.components[0])
    shape = {key: getattr(first, key) for key in _COMPONENT}
    return {
        **common, "kind": "galaxy", "x": first.x_0, "y": first.y_0,
        "flux": sum(total_flux(component) for component in fit.components), "snr": float("nan"),
        **shape,
    }  # fmt: skip


def _file_name(name: str) -> str:
    """Return the file of a copy; names that differ only in characters no path may have stay apart."""
    return f"{file_stem(name)}_{zlib.crc32(name.encode()):08x}.h5"


def _write_galaxy(path: Path, cutouts: dict[str, Cutout]) -> None:
    with h5py.File(path, "w") as file:
        for name, cutout in cutouts.items():
            group = file.create_group(name)
            parts = {"data": cutout.data, "error": cutout.error, "mask": cutout.mask.astype(np.uint8)}
            for part, values in parts.items():
                if values is not None:
                    group.create_dataset(part, data=values, compression="gzip", compression_opts=1, shuffle=True)
            group.attrs.update(unit=cutout.unit, pixel_scale=cutout.pixel_scale)
            if cutout.wcs:
                group.attrs["wcs"] = cutout.wcs


def _catalogue_row(folder: Path, galaxy: Galaxy, name: str) -> Row:
    return {
        "name": name, "path": _file_name(name), "psf": os.path.relpath(galaxy.psf.resolve(), folder.resolve()),
        "filters": ";".join(galaxy.filters), "base_filter": galaxy.base_filter, "forced": ";".join(galaxy.forced),
        "priority": galaxy.priority,
        **{key: repr(value) if np.isfinite(value) else "" for key, value in (("ra", galaxy.ra), ("dec", galaxy.dec))},
    }  # fmt: skip


def _write_tables(
    folder: Path, rows: list[Row], truth: list[Row], config: Config, plan: Injection, results: Path
) -> None:
    table = Table(rows=truth)
    units = {"x": "pix", "y": "pix", "fwhm": "pix", "r_eff": "pix", "theta": "rad"}
    for name, unit in units.items():
        table[name].unit = unit
    table.meta.update(
        results=str(results), seed=plan.seed, stars=plan.stars, copies=plan.copies, fluxes=plan.fluxes,
        slope=plan.slope, snr=list(plan.snr), galaxy=plan.galaxy, photon_noise=plan.photon_noise,
    )  # fmt: skip
    table.write(folder / TRUTH, format="ascii.ecsv", overwrite=True)
    (folder / CONFIG).write_text(config.to_toml())
    # the catalogue comes last: where it is, all is
    Table(rows=rows).write(folder / CATALOGUE, format="ascii.csv", overwrite=True)
