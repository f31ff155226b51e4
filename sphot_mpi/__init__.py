"""Joint Sersic, point-source and sky fits of galaxies behind crowded fields."""

__version__ = "0.1.0"
