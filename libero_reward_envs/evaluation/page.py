"""The pieces of a self-contained HTML page; every text that comes from data is escaped."""

import base64
from collections.abc import Sequence
from html import escape

_STYLE = """
:root{--bg:#fff;--fg:#1a1d21;--soft:#5a636e;--line:#d9dee4;--card:#f5f7f9;
--c1:#0072b2;--c2:#c8500a;--c3:#00805f;--c4:#a2478a;--band:rgba(0,114,178,.10)}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e7eaee;--soft:#a0aab5;--line:#353c44;
--card:#1d2126;--c1:#62b5e8;--c2:#f0913f;--c3:#3fc79a;--c4:#dd8fc8;--band:rgba(98,181,232,.14)}}
*{box-sizing:border-box}html{color-scheme:light dark}
body{margin:0 auto;padding:16px;max-width:960px;overflow-wrap:anywhere;
background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:.6em 0 .2em}h2{font-size:1.2rem;margin:2em 0 .4em;
padding-top:.6em;border-top:1px solid var(--line)}p{margin:.5em 0;max-width:44em}
.soft,figcaption{color:var(--soft);font-size:.9rem}
.notice{border-left:4px solid var(--c2);padding:.4em .8em;background:var(--card);margin:1em 0}
.cards{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));margin:1em 0}
.card{background:var(--card);border-radius:8px;padding:12px 14px}.card b{display:block;
font-size:1.7rem;line-height:1.2;font-weight:650}.card span{font-size:.9rem;color:var(--soft)}
.charts{display:grid;gap:20px;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr))}
.charts.one{grid-template-columns:1fr}figure{margin:.6em 0;min-width:0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem;
font-variant-numeric:tabular-nums;margin:.6em 0}
th,td{text-align:right;padding:.32em .7em;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:0;min-width:9em}th{font-weight:600;color:var(--soft)}
.plain td{text-align:left}td,th{overflow-wrap:normal}.plain td+td{overflow-wrap:anywhere}
svg.chart{display:block;width:100%;height:auto;overflow:visible}svg text{font-size:11px;
fill:var(--soft)}svg .title{font-size:12px;font-weight:650;fill:var(--fg)}
.grid{stroke:var(--line);fill:none}.axis{stroke:var(--soft);fill:none}.band{fill:var(--band)}
.line,.faint{fill:none;stroke-width:2;stroke-linejoin:round}.faint{stroke-width:1;opacity:.4}
.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}
.p1{fill:var(--c1)}.p2{fill:var(--c2)}.p3{fill:var(--c3)}.p4{fill:var(--c4)}
.p1,.p2,.p3,.p4{opacity:.8}
.legend{font-size:.85rem;color:var(--soft);padding-left:13%}.legend span{margin-right:1.2em}
.legend i{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:.4em}
.legend i.square{border-radius:0}.k1{background:var(--c1)}.k2{background:var(--c2)}
.k3{background:var(--c3)}.k4{background:var(--c4)}
video{display:block;width:100%;max-width:440px;border-radius:6px;background:#000}
pre{background:var(--card);border-radius:6px;padding:.7em .9em;white-space:pre-wrap;
font-size:.88rem}
"""


def make_page(title: str, body: Sequence[str]) -> str:
    """Return a page that loads nothing from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Even if some text slipped through unescaped, the browser would neither run nor load it.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; media-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def make_table(rows: Sequence[Sequence[str]], *, header: Sequence[str] = ()) -> str:
    """Return a table of texts; without a header, one of names and values."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    kind = "" if header else ' class="plain"'
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="scroll"><table{kind}>{head}<tbody>{lines}</tbody></table></div>'


def make_cards(cards: Sequence[tuple[str, str]]) -> str:
    """Return boxes with a number each and what it is."""
    boxes = "".join(
        f'<div class="card"><b>{escape(number)}</b><span>{escape(text)}</span></div>'
        for number, text in cards
    )
    return f'<div class="cards">{boxes}</div>'


def make_figure(content: str, caption: str) -> str:
    """Return markup of a picture with a caption of text."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def make_paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph, of a class of the style if `kind` names one."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text)}</p>"


def make_heading(text: str) -> str:
    """Return the heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def make_charts(figures: Sequence[str], *, one_column: bool = False) -> str:
    """Return figures beside each other where there is room."""
    return f'<div class="charts{" one" if one_column else ""}">{"".join(figures)}</div>'


def make_video(content: bytes, label: str) -> str:
    """Return an MP4 file as a video that plays on request."""
    uri = "data:video/mp4;base64," + base64.b64encode(content).decode()
    return (
        f'<video controls loop muted playsinline preload="metadata" aria-label="{escape(label)}" '
        f'src="{uri}"></video>'
    )
