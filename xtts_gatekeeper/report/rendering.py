"""Pages out of templates: whatever a user, a file or a model named stays text."""

from __future__ import annotations

from typing import Any

from xtts_gatekeeper.data import import_extra


def render(package: str, template: str, extra: str, **values: Any) -> str:
    """A template of the folder `templates` in a package, with every value escaped that is not marked as markup.

    Args:
        package: of ours, such as `xtts_gatekeeper.report`.
        template: its file name.
        extra: the extra that brings jinja2, for the sentence that names it when it is missing.
        **values: for the template, which fails on a name that is not among them.

    Raises:
        UserError: jinja2 is missing.
    """
    jinja2 = import_extra("jinja2", extra)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return str(environment.get_template(template).render(**values))
