"""The templates of pages: `base.html` holds the style that they share."""

from pathlib import Path

import jinja2


def render(template: Path, **values: object) -> str:
    """Return a page; text in `values` is escaped, and a value that is missing is an error."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
    )
    return environment.get_template(template.name).render(values)
