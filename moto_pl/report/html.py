"""What our HTML pages share: a shell that opens without a network, charts with captions, numbers."""

from __future__ import annotations

from html import escape

import numpy as np

from moto_pl import __version__


def html_page(title: str, body: str) -> str:
    """A whole page, in light and dark."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body><main>{body}"
        f"<footer>moto_pl {escape(__version__)}</footer></main></body></html>\n"
    )


def figure_block(title: str, svg: str, caption: str, alt: str) -> str:
    """A chart with its title, caption, and the sentence that stands for it where it cannot be seen."""
    return (
        f"<figure class='chart'><h3>{escape(title)}</h3>"
        f"<div role='img' aria-label='{escape(alt, quote=True)}'>{svg}</div>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def number(value: float) -> str:
    """A number with about four digits."""
    if not np.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


_CSS = """
:root{--bg:#fff;--panel:#f6f7f9;--text:#1b1f24;--soft:#59636e;--line:#d9dee4;--accent:#2563b8;--warn:#fff6e0;
--warn-line:#d9a520}
@media(prefers-color-scheme:dark){:root{--bg:#12151a;--panel:#1b2027;--text:#e4e8ee;--soft:#9aa5b1;--line:#323a44;
--accent:#7db2f5;--warn:#2d2510;--warn-line:#a67c14}}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0;background:var(--bg);color:var(--text);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.2rem 1.4rem 3rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.4rem 0 .8rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
h3{font-size:.95rem;margin:0 0 .3rem}
a{color:var(--accent)}a:focus-visible,summary:focus-visible,pre:focus-visible{outline:2px solid var(--accent);
outline-offset:2px}
code,pre{font-family:ui-monospace,"SF Mono",Menlo,Consolas,monospace;font-size:.86em}
.meta,.small,figcaption,footer,small{color:var(--soft)}.small,figcaption{font-size:.86rem}
.meta{margin:0 0 1rem;overflow-wrap:anywhere}
.verdict{font-size:1.2rem;font-weight:600;margin:0 0 1rem;padding:.85rem 1.1rem;background:var(--panel);
border-left:4px solid var(--accent);border-radius:4px}
.note{background:var(--warn);border-left:4px solid var(--warn-line);border-radius:4px;padding:.7rem 1.1rem;
margin:0 0 1rem}
.note ul{margin:.2rem 0 0;padding-left:1.2rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.92rem}nav a{text-decoration:none}
nav a:hover{text-decoration:underline}
.scroll{overflow-x:auto;margin-bottom:1rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.94rem}
caption{text-align:left;font-weight:600;padding-bottom:.4rem}
th,td{padding:.42rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
thead th{color:var(--soft);font-weight:500;font-size:.84rem}
th:first-child,.text{text-align:left}tbody th{font-weight:500}
.rate{display:flex;align-items:center;justify-content:flex-end;gap:.7rem}.rate span{min-width:7.4rem}
.results th,.results td{padding:.42rem .5rem}.results thead th{white-space:normal}
.bar{width:70px;height:13px;flex:none;overflow:visible}.bar .rail{stroke:var(--line);stroke-width:2}
.bar .range{stroke:var(--accent);stroke-width:5;opacity:.42}.bar circle{fill:var(--accent)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));gap:1.1rem}
.charts.wide{grid-template-columns:repeat(auto-fit,minmax(440px,1fr))}
.videos{display:grid;align-items:start;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:1.1rem}
figure{margin:0;padding:.9rem;background:var(--panel);border:1px solid var(--line);border-radius:8px;
break-inside:avoid}
.chart svg{display:block;width:100%;height:auto;max-width:560px;margin:0 auto}
.comparison svg,.seeds svg{max-width:none}
figure img{display:block;max-width:100%;height:auto;margin:0 auto;background:#fff}
.chart svg *{stroke-linejoin:round;stroke-linecap:butt}.chart svg text{font-family:inherit!important}
video{display:block;width:100%;background:#000;border-radius:4px;margin-bottom:.5rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1.4rem;margin:0}dt{color:var(--soft)}dd{margin:0;
overflow-wrap:anywhere}
details{margin:.6rem 0}summary{cursor:pointer}
pre{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:1rem;overflow:auto;
max-height:70vh;line-height:1.45}
footer{margin-top:2.5rem;font-size:.84rem}
@media(max-width:520px){.charts,.charts.wide,.videos{grid-template-columns:1fr}}
@media print{:root{--bg:#fff;--panel:#fff;--text:#000;--soft:#444;--line:#bbb;--accent:#1d4f91;--warn:#fff}
body{font-size:11pt}main{max-width:none;padding:0}nav,video{display:none}h2{break-after:avoid}
.charts{grid-template-columns:1fr 1fr}.scroll{overflow:visible}pre{max-height:none;white-space:pre-wrap}}
"""
