"""Our HTML pages: one set of templates and one stylesheet, put into each page so that it opens without a network."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from moto_pl import __version__
from moto_pl.files import bytes_text


class Chart(NamedTuple):
    """A chart of a page.

    Attributes:
        title: above it.
        svg: an ``<svg>`` element, which the page takes as it is.
        caption: below it.
        alt: the sentence that stands for it where it cannot be seen.
    """

    title: str
    svg: str
    caption: str
    alt: str


def render_page(template: str, title: str, **values: Any) -> str:
    """A whole page, in light and dark.

    Args:
        template: a file of ``report/templates``.
        title: of the page.
        **values: what the template asks for; text in them is escaped.
    """
    return _templates().get_template(template).render(title=title, version=__version__, **values) + "\n"


def number(value: float) -> str:
    """A number with about four digits."""
    if not np.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """``12 s``, ``3 min``, ``2 h 05 min``, ``4 d 3 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole // 60 % 60:02d} min"
    return f"{whole // 86_400} d {whole // 3600 % 24} h"


@functools.cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("moto_pl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "number": number,
        "bytes": bytes_text,
        "duration": duration,
        "count": "{:,}".format,
        "percent": "{:.0%}".format,
    }
    return templates
