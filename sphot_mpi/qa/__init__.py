"""Pictures of data, models and residuals; the only importers of matplotlib."""
