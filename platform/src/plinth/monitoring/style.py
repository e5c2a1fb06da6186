"""The style sheet of the drift report: light and dark by the reader's setting, no outside font."""

CSS = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c2024;--soft:#5d6670;--rule:#e1e4e8;--ref:#b9c2cc;
--cur:#0b62c4;--s0:#0b62c4;--s1:#9a5b00;--s2:#0a7a5c;--s3:#8a3fa8;--bad:#b3261e;--badbg:#fdecea;--good:#1b6e3c;
--goodbg:#e8f5ec;--unsure:#7a5a00;--unsurebg:#fff6dc}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1b1f24;--ink:#e6e9ec;--soft:#9aa4ae;--rule:#2e343b;
--ref:#4a545f;--cur:#6cb0ff;--s0:#6cb0ff;--s1:#f0b45a;--s2:#56cfa5;--s3:#cf94e6;--bad:#ff8d84;--badbg:#3a1d1b;
--good:#7fd79c;--goodbg:#17301f;--unsure:#eccb6d;--unsurebg:#332a10}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}
header p{margin:0;color:var(--soft)} h1{font-size:26px;line-height:1.2;margin:0}
h2{font-size:18px;margin:0 0 8px} p{margin:0 0 10px;max-width:76ch}
section{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:18px 20px;margin:16px 0}
section>:last-child{margin-bottom:0}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(155px,1fr));gap:10px 16px;margin:18px 0}
dt{color:var(--soft);font-size:13px} dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.verdict{border-radius:8px;padding:14px 20px;border-left:6px solid;margin:16px 0}
.verdict strong{font-size:20px} .verdict ul{margin:6px 0 0;padding-left:20px}
.bad{background:var(--badbg);border-color:var(--bad)} .bad strong{color:var(--bad)}
.good{background:var(--goodbg);border-color:var(--good)} .good strong{color:var(--good)}
.unsure{background:var(--unsurebg);border-color:var(--unsure)} .unsure strong{color:var(--unsure)}
.scroll{overflow-x:auto} table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:6px 10px;border-bottom:1px solid var(--rule);text-align:left;vertical-align:middle}
th{color:var(--soft);font-weight:600;font-size:13px;white-space:nowrap} tbody tr:last-child td{border-bottom:0}
th:first-child,td:first-child{padding-left:0}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font:13px ui-monospace,SFMono-Regular,Menlo,monospace;overflow-wrap:anywhere}
td code{white-space:nowrap} td:nth-child(-n+2){white-space:nowrap} .text{min-width:240px;white-space:normal}
.pill{display:inline-block;border-radius:10px;padding:0 9px;font-size:13px;white-space:nowrap}
.pill.drift{background:var(--badbg);color:var(--bad);font-weight:600}
.pill.ok{background:var(--goodbg);color:var(--good)} .pill.small-sample{background:var(--unsurebg);color:var(--unsure)}
.tag{font-size:12px;color:var(--soft);border:1px solid var(--rule);border-radius:4px;padding:0 5px}
.quiet,.note{color:var(--soft)}
svg{display:block;width:100%} .chart{height:auto} td .hist{width:180px;height:40px} .wide .hist{height:150px}
.ref{fill:var(--ref)} .cur{fill:none;stroke:var(--cur);stroke-width:1.6;vector-effect:non-scaling-stroke}
.ends{display:flex;justify-content:space-between;color:var(--soft);font-size:11px;line-height:1.3;max-width:180px}
.wide .ends{max-width:none;font-size:13px}
.grid{stroke:var(--rule)} .tick,.zero{stroke:var(--soft)} .axis{fill:var(--soft);font-size:12px}
.bound{stroke:var(--bad);stroke-dasharray:6 4;stroke-width:1.5}
.line{fill:none;stroke-width:2} .band{opacity:.16;stroke:none}
.line.s0{stroke:var(--s0)} .line.s1{stroke:var(--s1)} .line.s2{stroke:var(--s2)} .line.s3{stroke:var(--s3)}
circle.s0,.band.s0{fill:var(--s0)} circle.s1,.band.s1{fill:var(--s1)}
circle.s2,.band.s2{fill:var(--s2)} circle.s3,.band.s3{fill:var(--s3)}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--soft);font-size:13px;margin:8px 0}
.key i,.dot{display:inline-block;width:16px;height:3px;margin-right:6px;vertical-align:middle;background:var(--soft)}
.dot{width:9px;height:9px;border-radius:50%}
i.s0,i.cur{background:var(--s0)} i.s1{background:var(--s1)} i.s2{background:var(--s2)} i.s3{background:var(--s3)}
.key i.ref{height:10px;background:var(--ref)}
.key i.bound{background:repeating-linear-gradient(90deg,var(--bad) 0 5px,transparent 5px 8px)}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:20px;margin-bottom:12px} figure{margin:0}
figcaption{color:var(--soft);font-size:13px;margin-bottom:2px} .pair .axis{font-size:20px}
@media(max-width:760px){.pair{grid-template-columns:1fr} .pair .axis,.chart .axis{font-size:16px}
section{padding:14px} main{padding:18px 12px 40px} td .hist{width:120px} .ends{max-width:120px}}
@media print{body{background:#fff} section{break-inside:avoid}}
""".replace("\n", "")
