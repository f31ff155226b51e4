"""Write what a report shows of one galaxy: thumbnail, pictures, page."""

import gc
import re
from pathlib import Path

import numpy as np
from jinja2 import Template
from PIL import Image as PillowImage

from sphot_mpi.errors import SphotError
from sphot_mpi.qa.gallery import page_stem
from sphot_mpi.qa.pages import Picture, galaxy_page, picture_alt
from sphot_mpi.qa.panels import Panel, PanelReader
from sphot_mpi.qa.plots import save_panels
from sphot_mpi.qa.tables import CampaignTables, words
from sphot_mpi.qa.thumbnails import write_thumbnail
from sphot_mpi.results_reader import ResultsReader

_DPI = 100


class GalaxyWriter:
    """Writes galaxies into a report's folder, one after another.

    Parameters
    ----------
    reader : ResultsReader
        Open as long as this is used.
    tables : CampaignTables
        Of the same reader.
    output : Path
        The report's folder.
    template : Template or None
        Of a galaxy's page; None: thumbnails only.
    """

    def __init__(self, reader: ResultsReader, tables: CampaignTables, output: Path, template: Template | None) -> None:
        self.reader = reader
        self.tables = tables
        self.output = output
        self.template = template
        self.panels = PanelReader(reader, tables)

    def write(self, number: int) -> bool:
        """Write one galaxy.

        Parameters
        ----------
        number : int
            Its row in /galaxies.

        Returns
        -------
        bool
            Whether it has a thumbnail; it has none if nothing was fitted or its images cannot be had.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        galaxy = self.tables.galaxies[number]
        name, base = words(galaxy["name"]), words(galaxy["base_filter"])
        stem = page_stem(number, name)
        pictures, pictured = [], False
        for row in self.tables.rows("sersic", number):
            filter_name = words(row["filter"])
            if self.template is None and filter_name != base:
                continue
            panel, note = self._panel(name, filter_name)
            if panel is None:
                pictures.append(Picture(filter=filter_name, note=note))
                continue
            if filter_name == base:
                write_thumbnail(self.output / "thumbs" / f"{stem}.webp", panel)
                pictured = True
            if self.template is not None:
                pictures.append(self._picture(f"{stem}-{len(pictures) + 1}", name, panel, row))
        if self.template is not None:
            self._page(self.template, number, stem, pictures)
        # figures refer to themselves in circles; ten thousand of them must not pile up
        gc.collect(1)
        return pictured

    def _panel(self, name: str, filter_name: str) -> tuple[Panel | None, str]:
        """Return a panel with data in it, or why there is none."""
        try:
            panel = self.panels.read(name, filter_name, check=self.template is not None)
        except SphotError as error:
            return None, str(error)
        return (panel, "") if np.isfinite(panel.data).any() else (None, "there are no data.")

    def _picture(self, stem: str, name: str, panel: Panel, row: np.void) -> Picture:
        # a filter's name is text, too
        label = re.sub(r"[^A-Za-z0-9]+", "-", panel.filter).strip("-")
        file = f"pictures/{stem}-{label}.webp"
        save_panels(self.output / file, [panel], "", dpi=_DPI)  # the page bears the name
        with PillowImage.open(self.output / file) as image:
            width, height = image.size
        return Picture(filter=panel.filter, file=file, alt=picture_alt(name, row), width=width, height=height)

    def _page(self, template: Template, number: int, stem: str, pictures: list[Picture]) -> None:
        def neighbour(index: int) -> str:
            known = 0 <= index < self.tables.galaxies.size
            return page_stem(index, words(self.tables.galaxies["name"][index])) if known else ""

        text = template.render(
            root="../", here="galaxy", campaign=self.reader.path.stem, page=galaxy_page(self.tables, number),
            pictures=pictures, previous=neighbour(number - 1), next=neighbour(number + 1),
        )  # fmt: skip
        (self.output / "galaxies" / f"{stem}.html").write_text(text, encoding="utf-8")
