"""SVG as a part of an HTML page: no prolog, ids of its own, colours that follow the page's light or dark style."""

import re
from collections.abc import Mapping
from html import escape

_STYLE = re.compile(r'style="[^"]*"')
_PATH = re.compile(r' d="[^"]*"')
_FINE = re.compile(r"(?<=\.\d\d)\d+")  # decimals after the second
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def inline(svg: str, *, prefix: str, alt: str, variables: Mapping[str, str]) -> str:
    """An `<svg>` element that fits any page.

    `prefix` parts its ids from those of the page's other figures; `alt` is what a screen reader says; `variables` maps
    a colour ("#rrggbb", lower case) to the CSS variable that shall take its place. Colours without one stay.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
    svg = _PATH.sub(lambda path: _FINE.sub("", path[0]), svg)  # 1/100 pt is finer than any screen
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#', rf"\g<1>#{prefix}-", svg)
    svg = _STYLE.sub(lambda style: _COLOUR.sub(lambda hit: _variable(hit[0], variables), style[0]), svg)
    head = re.match(r"<svg[^>]*>", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    if head is None or box is None:
        raise ValueError("not an SVG with a viewBox: draw it with matplotlib's SVG backend")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} {box[0]} role="img" aria-label="{escape(alt)}">{svg[head.end() :]}'


def _variable(colour: str, variables: Mapping[str, str]) -> str:
    name = variables.get(colour)
    return f"var({name}, {colour})" if name else colour
