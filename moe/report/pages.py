"""Pages in the report's style, from the templates beside this file."""

from pathlib import Path

from moe.extras import require

TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **values: object) -> str:
    """Render a template of this room; values are escaped for HTML.

    Args:
        template: file name of the template.
        values: what it shows, by the names that it uses.

    Raises:
        Fault: if jinja2 is not installed.
    """
    jinja2 = require("jinja2", "report")
    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page: str = engine.get_template(template).render(**values)
    return page
