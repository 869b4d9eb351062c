"""The report's style sheet: light and dark, narrow screens, paper. Trackers' colours match ssrtrack/report/looks.py."""

CSS = """
:root{--paper:#fefefe;--ink:#1b1f24;--muted:#59636e;--grid:#dfe3e8;--shade:#f8efd8;--plot:#8b949e;--soft:#f5f7f9;
--accent:#0b5cad;--warn:#9a4b00;--tracker-0:#0072b2;--tracker-1:#d55e00;--tracker-2:#009e73;--tracker-3:#b8578d;
--tracker-4:#c98a00;--tracker-5:#3d9bd1;color-scheme:light}
@media (prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e6eaee;--muted:#9ba6b2;--grid:#2d343c;--shade:#3d3520;
--plot:#77818c;--soft:#1b2027;--accent:#79b8ff;--warn:#ffb366;--tracker-0:#4ba3e3;--tracker-1:#ff8a3d;--tracker-2:#2cc69a;
--tracker-3:#e79fc6;--tracker-4:#f2b632;--tracker-5:#86cdf5;color-scheme:dark}}
*{box-sizing:border-box}
html{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;background:var(--paper);
color:var(--ink);-webkit-text-size-adjust:100%}
body{max-width:68rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .35rem;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:3rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--grid)}
h3{font-size:1rem;margin:1.6rem 0 .2rem}
p{margin:.4rem 0 .8rem;max-width:48rem}
a{color:var(--accent)}
.result{font-size:1.25rem;line-height:1.45;margin:1rem 0 .4rem;max-width:54rem}
.muted,figcaption,.unit,.interval{color:var(--muted)}
nav{font-size:.9rem;margin:1.2rem 0 0}
nav a{display:inline-block;margin:0 1rem .2rem 0;text-decoration:none}
nav a:hover{text-decoration:underline}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));margin:1.4rem 0 0;
padding:.5rem 0;border:solid var(--grid);border-width:1px 0}
.facts div{padding:.4rem .8rem .4rem 0}
.facts .wide{grid-column:span 2}
.facts dt{font-size:.78rem;color:var(--muted)}
.facts dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.facts dd small{display:block;font-weight:400;color:var(--muted)}
.scroll{overflow-x:auto;margin:.6rem 0}
.scroll:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{padding:.28rem .7rem;text-align:right;vertical-align:baseline;border-bottom:1px solid var(--grid)}
th:first-child{text-align:left;padding-left:0}
thead th{white-space:nowrap;vertical-align:bottom}
thead tr:last-child th{border-bottom:2px solid var(--ink)}
th[scope=colgroup]{text-align:center}
tbody th{font-weight:400}
tbody th[colspan],tbody th.group{font-weight:600;padding-top:1.1rem;border-bottom-color:var(--muted);text-align:left}
tbody th a{color:inherit;text-decoration:underline dotted var(--muted);text-underline-offset:3px}
td.left,.scores thead th:nth-child(2){text-align:left}
span.best{font-weight:700;position:relative}
span.best::after{content:"●";position:absolute;left:100%;margin-left:.25em;font-size:.55em;top:.45em;color:var(--accent)}
.interval{display:block;font-size:.76rem;font-weight:400;white-space:nowrap}
.warn{color:var(--warn);font-weight:600}
figure{margin:.8rem 0 1.6rem}
figure svg.plot,figure>.scroll>svg{display:block;width:100%;height:auto;min-width:40rem}
figcaption{font-size:.9rem;max-width:48rem;margin-top:.3rem}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;font-size:.88rem;list-style:none;padding:0;margin:.4rem 0}
.legend li{display:flex;align-items:center;gap:.4rem}
.legend svg{width:2.1rem;height:.9rem;flex:none}
.notes{padding-left:1.2rem;max-width:48rem}
.tight td,.tight th{padding:.28rem .45rem;font-size:.95em}.tight tbody th{white-space:nowrap;padding-left:0}
.defs td,.defs th{text-align:left;vertical-align:top}
:target{background:var(--shade)}
pre{background:var(--soft);border:1px solid var(--grid);padding:.7rem .9rem;overflow-x:auto;font-size:.85rem;
white-space:pre-wrap;overflow-wrap:anywhere}
@media print{:root{--paper:#fff;--ink:#000;--muted:#444;--grid:#ccc;--shade:#f8efd8;--plot:#888;--soft:#fff;
--tracker-0:#0072b2;--tracker-1:#d55e00;--tracker-2:#009e73;--tracker-3:#b8578d;--tracker-4:#c98a00;--tracker-5:#3d9bd1;
color-scheme:light}
html{font-size:10pt}body{max-width:none;padding:0}nav{display:none}h2,h3{break-after:avoid}
figure,tr{break-inside:avoid}.scroll{overflow:visible}figure>.scroll>svg{min-width:0}}
"""
