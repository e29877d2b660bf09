"""Matplotlib figures as SVG: the same bytes every time.

Draw inside `drawing()`, with colours from SERIES. `svg` gives an element for a page, whose own
variables replace the colours, so that it is readable in light and in dark; `save_svg` a file.
"""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

SERIES = ("#1f6fb4", "#c75b12", "#2a8a4a", "#8456b8", "#b03a48", "#5f6b76")
"""Colours of series, in the order in which to use them; the last one is for what is secondary."""
INK = "#1b1f24"
LINE = "#c9d0d8"

_STYLE: dict[Any, Any] = {
    "font.size": 10.0,
    "text.color": INK,
    "text.parse_math": False,  # a title may hold a dollar sign
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
}
_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_VARIABLES = {
    INK: "var(--ink)",
    LINE: "var(--line)",
    **{colour: f"var(--series-{n})" for n, colour in enumerate(SERIES, 1)},
}


@contextmanager
def drawing() -> Iterator[None]:
    """The style of every figure. Not to be entered by several threads at once."""
    with rc_context(_STYLE):
        yield


def new_figure(width_in: float = 7.0, height_in: float = 3.6) -> Figure:
    """An empty figure whose parts do not overlap; call it inside `drawing()`."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def svg(figure: Figure) -> Markup:
    """The figure as an <svg> element, to be put into a page as it is.

    Text stays text, and ids differ between figures. Holds no date, no address and no metadata.
    """
    drawn = _drawn(figure, transparent=True)
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn).replace("xlink:href", "href")
    # Fonts are the page's.
    drawn = re.sub(r"(font(?:-family)?: (?:[\w ]* ?[\d.]+px )?)'[^;\"]+", r"\1var(--font)", drawn)
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, variable)
    prefix = hashlib.sha256(drawn.encode()).hexdigest()[:8]
    drawn = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>f{prefix}-", drawn)
    return Markup(drawn)  # noqa: S704 - matplotlib escapes every text it writes


def save_svg(figure: Figure, path: Path) -> None:
    """Write the figure as a file of its own, on white."""
    figure.set_facecolor("white")
    path.write_text(_drawn(figure, transparent=False), encoding="utf-8")


def _drawn(figure: Figure, *, transparent: bool) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "shopcast", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=transparent, metadata=_METADATA)
    return buffer.getvalue()
