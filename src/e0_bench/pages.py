"""HTML pages that hold everything they show: no network, no script, no second file.

Figures are inline SVG, pictures are data URIs. Ink in the figures takes the page's own text colour,
in light and in dark mode.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

PLACEHOLDER_INK = "#010203"  # becomes the page's text colour


def render_page(
    template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **content: Any
) -> str:
    """Fill a template of this package. Raises UndefinedError for a name that it lacks."""
    environment = Environment(
        loader=PackageLoader("e0_bench", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= dict(filters or {})
    return environment.get_template(template).render(**content)


def png_uri(image: np.ndarray) -> str:
    """A picture, uint8 (h, w, 3), as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return data_uri("png", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """An image file of this kind as a data URI."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def svg(figure: Figure, label: str) -> Markup:
    """The figure as an inline element that scales with the page and takes its text colour."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    head = re.compile(r'.*?<svg [^>]*viewBox="([^"]*)"[^>]*>', re.DOTALL)
    opening = f'<svg role="img" aria-label="{escape(label)}" viewBox='
    text = head.sub(lambda match: f'{opening}"{match[1]}">', buffer.getvalue(), count=1)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # matplotlib gives every figure the same ids
    return Markup(text.replace(PLACEHOLDER_INK, "currentColor"))
