"""The frame of every report: one self-contained HTML page with sentences, tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

Tone = Literal["plain", "good", "bad", "muted"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the lead. tone: what it means to the reader: good news, a warning, or neither;
    shown by a mark as well as by colour."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """columns: names. rows: cells as text, one per column; the first names the row.
    left: how many columns, from the first, are text; the others are numbers and lean right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True, slots=True)
class Plot:
    """svg: as figures.svg gives it. alt: what a reader who does not see it should know."""

    svg: Markup
    caption: str
    alt: str


@dataclass(frozen=True, slots=True)
class Section:
    """A headed part of a page."""

    title: str
    parts: Sequence[Paragraph | Table | Plot]


def render_page(
    title: str, lead: Sequence[Sentence], sections: Sequence[Section], *, footer: str = ""
) -> str:
    """A whole HTML document without scripts, links or addresses; every text is escaped."""
    return _PAGE.render(title=title, lead=lead, sections=sections, footer=footer, css=_CSS)


_CSS = Markup("""
:root {
  color-scheme: light dark;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  --page: #ffffff; --panel: #f5f7f9; --ink: #1b1f24; --muted: #57606a; --line: #c9d0d8;
  --good: #1a7f37; --bad: #9a5b00;
  --series-1: #1f6fb4; --series-2: #c75b12; --series-3: #2a8a4a; --series-4: #8456b8;
  --series-5: #b03a48; --series-6: #5f6b76;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181d; --panel: #1d232a; --ink: #e6e9ed; --muted: #9aa5b1; --line: #3a444f;
    --good: #4cc36b; --bad: #e0a23c;
    --series-1: #6cb0ec; --series-2: #f0954e; --series-3: #62c584; --series-4: #bb97e6;
    --series-5: #ee8591; --series-6: #9aa5b1;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem;
  background: var(--page); color: var(--ink); font: 1rem/1.55 var(--font);
}
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .8rem;
     border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .6rem 0; }
.lead { list-style: none; margin: 0; padding: .8rem 1.1rem; background: var(--panel);
        border-radius: .5rem; }
.lead li { margin: .45rem 0; padding-left: 1.6rem; text-indent: -1.6rem; }
.lead li::before { content: "\\2013"; display: inline-block; width: 1.6rem; text-indent: 0;
                   color: var(--muted); }
.lead .good::before { content: "\\2713"; color: var(--good); font-weight: bold; }
.lead .bad::before { content: "!"; color: var(--bad); font-weight: bold; }
.lead .muted { color: var(--muted); }
nav { margin: 1.2rem 0 0; font-size: .9rem; color: var(--muted); }
nav ul { display: inline; padding: 0; margin: 0; }
nav li { display: inline-block; margin-right: 1rem; }
nav a { color: inherit; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 .4rem; }
th, td { padding: .28rem .8rem .28rem 0; text-align: right; vertical-align: top;
         border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
thead th { color: var(--muted); border-bottom-width: 2px; vertical-align: bottom; }
.text { text-align: left; white-space: normal; }
figure { margin: 1.4rem 0; }
figure svg { width: 100%; max-width: 50rem; height: auto; display: block; }
figure svg text { fill: var(--ink); }
figcaption { font-size: .9rem; color: var(--muted); max-width: 46rem; margin-top: .3rem; }
footer { margin-top: 3rem; font-size: .85rem; color: var(--muted); }
@media print { body { max-width: none; } h2, figure, tr { break-inside: avoid; }
  nav { display: none; } }
""")

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% if lead %}
<ul class="lead">
{% for sentence in lead %}
<li class="{{ sentence.tone }}">{{ sentence.text }}</li>
{% endfor %}
</ul>
{% endif %}
{% if sections | length > 3 %}
<nav aria-label="Contents"><ul>
{% for section in sections %}
<li><a href="#section-{{ loop.index }}">{{ section.title }}</a></li>
{% endfor %}
</ul></nav>
{% endif %}
{% for section in sections %}
<section aria-labelledby="section-{{ loop.index }}">
<h2 id="section-{{ loop.index }}">{{ section.title }}</h2>
{% for part in section.parts %}
{% if part.svg is defined %}
<figure>
<div role="img" aria-label="{{ part.alt }}">{{ part.svg }}</div>
<figcaption>{{ part.caption }}</figcaption>
</figure>
{% elif part.rows is defined %}
<div class="scroll" role="region" tabindex="0" aria-label="{{ part.caption }}">
<table>
<caption>{{ part.caption }}</caption>
<thead><tr>
{% for column in part.columns %}
<th scope="col"{% if loop.index <= part.left %} class="text"{% endif %}>{{ column }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in part.rows %}
<tr>
{% for cell in row %}
{% if loop.first %}
<th scope="row" class="text">{{ cell }}</th>
{% else %}
<td{% if loop.index <= part.left %} class="text"{% endif %}>{{ cell }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% else %}
<p>{{ part.text }}</p>
{% endif %}
{% endfor %}
</section>
{% endfor %}
{% if footer %}
<footer>{{ footer }}</footer>
{% endif %}
</main>
</body>
</html>
"""

_PAGE = Environment(
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
).from_string(_TEMPLATE)
