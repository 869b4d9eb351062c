"""What sections of a page are made of, as HTML: a figure with its legend and caption, and a table."""

from collections.abc import Iterable, Sequence
from html import escape

from ssrtrack.report.looks import INK, MARKER_PATHS, MUTED, PAPER, SHADE, VARIABLES, result_looks
from ssrtrack.scoring.result import EvaluationResult


def figure(picture: str | None, caption: str = "", key: str = "") -> str:
    """A picture with its legend and caption; "" without a picture."""
    if picture is None:
        return ""
    area = f'<div class="scroll" tabindex="0" role="group" aria-label="figure">{picture}</div>'
    return f"<figure>{key}{area}{f'<figcaption>{caption}</figcaption>' if caption else ''}</figure>"


def _key(content: str, text: str) -> str:
    return f'<li><svg viewBox="-16 -7 32 14" aria-hidden="true">{content}</svg>{escape(text)}</li>'


def legend(result: EvaluationResult, extra: Iterable[tuple[str, str]] = (), *, trackers: bool = True) -> str:
    """A legend in the page's own text: it wraps, can be read aloud, and never covers data."""
    items = []
    for name, look in result_looks(result).items() if trackers else ():
        colour = f"var({VARIABLES[look.colour]},{look.colour})"
        dash = f' stroke-dasharray="{" ".join(f"{1.5 * length:g}" for length in look.dash)}"' if look.dash else ""
        line = f'<path d="M-15 0H15" style="stroke:{colour};stroke-width:2"{dash}/>'
        items.append(_key(f'{line}<path d="{MARKER_PATHS[look.marker]}" style="fill:{colour}"/>', name))
    marks = {
        "line": f'<path d="M-15 0H15" style="stroke:var(--ink,{INK});stroke-width:3.5;opacity:.35"/>',
        "dot": f'<circle r="3.4" style="fill:var(--paper,{PAPER});stroke:var(--ink,{INK});stroke-width:1.2"/>',
        "shade": f'<path d="M-15 -6H15V6H-15z" style="fill:var(--shade,{SHADE})"/>',
        "band": f'<path d="M-15 -6H15V6H-15z" style="fill:var(--muted,{MUTED});opacity:.25"/>',
        "dash": f'<path d="M0 -7V7" style="stroke:var(--muted,{MUTED});stroke-width:1.5" stroke-dasharray="3 3"/>',
    }
    items += [_key(marks[mark], text) for mark, text in extra]
    return f'<ul class="legend">{"".join(items)}</ul>'


def table(head: Sequence[str], body: str, kind: str = "numbers", above: str = "") -> str:
    """A table that scrolls by itself where the page is narrow; texts are HTML."""
    cells = "".join(f'<th scope="col">{text}</th>' for text in head)
    whole = f'<table class="{kind}"><thead>{above}<tr>{cells}</tr></thead>{body}</table>'
    return f'<div class="scroll" tabindex="0" role="group" aria-label="table">{whole}</div>'
