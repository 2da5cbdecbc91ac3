"""The look of the report: one style sheet, light and dark, from phone to desk, in the system's fonts."""

STYLE_SHEET = """
:root {
  color-scheme: light dark;
  --paper: #fbfbfa; --card: #ffffff; --ink: #1c1e21; --soft: #5c626b; --line: #e3e4e6;
  --accent: #2952c8; --bar: #c9d6fa; --warn: #8a5a00; --warn-paper: #fff6e0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #131417; --card: #1c1e22; --ink: #e8e8e6; --soft: #a2a8b1; --line: #32353b;
    --accent: #8fb0ff; --bar: #34477c; --warn: #f2c464; --warn-paper: #2d2616;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
.page { max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header { margin-bottom: 2rem; }
h1 { font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em; margin: .2rem 0 .6rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.45rem; line-height: 1.25; letter-spacing: -.01em; margin: 0 0 .5rem; }
h3 { font-size: 1.02rem; margin: 2rem 0 .6rem; }
p { max-width: 44rem; margin: .5rem 0; }
a { color: var(--accent); text-underline-offset: .18em; }
code { font: .88em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  background: color-mix(in srgb, var(--ink) 7%, transparent); border-radius: .3em; padding: .1em .35em;
  overflow-wrap: anywhere; }
.over { color: var(--soft); font-size: .8rem; letter-spacing: .09em; text-transform: uppercase; margin: 0; }
.lead { color: var(--soft); font-size: 1.08rem; }
section { padding: 2.25rem 0; border-top: 1px solid var(--line); }
section > p:first-of-type { color: var(--soft); }
nav ol { list-style: none; margin: 0 0 1.5rem; padding: 0; display: flex; flex-wrap: wrap; gap: .4rem; }
nav a { display: block; padding: .3rem .7rem; border: 1px solid var(--line); border-radius: 2rem;
  font-size: .88rem; color: var(--soft); text-decoration: none; background: var(--card); }
nav a:hover { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .9rem;
  margin-top: 1.5rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: .9rem 1.1rem; }
.tile b { display: block; font-size: 2rem; line-height: 1.2; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .88rem; }
dl { display: grid; grid-template-columns: 10rem 1fr; gap: .35rem 1.2rem; margin: 1.2rem 0;
  max-width: 52rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: min(100%, 28rem); }
caption { text-align: left; color: var(--soft); font-size: .88rem; padding: 0 0 .5rem; caption-side: top; }
th, td { text-align: left; padding: .45rem 1.4rem .45rem 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
thead th { font-size: .85rem; color: var(--soft); font-weight: 600; border-bottom-color: var(--soft); }
tbody th { font-weight: 500; }
td.number, th.number { text-align: right; padding-right: 1.4rem; white-space: nowrap; }
td.best { font-weight: 700; }
.bar { display: inline-block; width: 9rem; height: .6rem; margin-left: .7rem; border-radius: .3rem;
  background: color-mix(in srgb, var(--ink) 6%, transparent); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); border-radius: .3rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .7rem;
  overflow: hidden; }
figure .white { background: #fff; padding: .6rem; }
figure img { display: block; width: 100%; height: auto; }
figcaption { padding: .65rem .9rem .75rem; font-size: .88rem; line-height: 1.45; color: var(--soft);
  overflow-wrap: anywhere; }
.gallery { display: grid; gap: 1rem; margin: 1.2rem 0; align-items: start; }
@media (min-width: 44rem) { .gallery.two { grid-template-columns: 1fr 1fr; } }
.missing { max-width: none; background: var(--warn-paper); color: var(--warn) !important;
  border-radius: .6rem; padding: .7rem 1rem; overflow-wrap: anywhere; }
footer { border-top: 1px solid var(--line); padding-top: 2rem; color: var(--soft); font-size: .92rem; }
footer li { max-width: 44rem; margin: .3rem 0; }
@media (max-width: 40rem) {
  .page { padding-top: 1.5rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .7rem; }
  .bar { display: none; }
  th, td, td.number, th.number { padding-right: .9rem; }
  th.number { white-space: normal; }
}
@media (min-width: 70rem) {
  .page { display: grid; grid-template-columns: 11rem minmax(0, 1fr); column-gap: 3rem; }
  header, main, footer { grid-column: 2; }
  nav { grid-column: 1; grid-row: 1 / span 3; }
  nav ol { position: sticky; top: 2.5rem; flex-direction: column; gap: .1rem; }
  nav a { border: 0; background: none; padding: .25rem 0; font-size: .92rem; }
}
@media print { nav { display: none; } section, figure { break-inside: avoid; } .page { display: block; } }
"""
