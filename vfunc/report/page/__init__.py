"""The page of a run: one HTML file that needs nothing beside it."""

from vfunc.extras import needs

needs("run", "jinja2", "markupsafe")
