"""The style of all pages: light and dark, for narrow and wide windows."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #667; --paper: #fff; --line: #dde1e6; --box: #f2f4f7;
  --bad: #a3230f; --bad-box: #fdeeea; --c0: #2f6fb3; --c1: #b8700f; --c2: #3c8659 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa3ad; --paper: #14171a; --line: #31373d;
  --box: #1f2428; --bad: #ff9c87; --bad-box: #3a1d17; --c0: #6aa5e0; --c1: #e0a550; --c2: #72bf90 } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink);
  background: var(--paper); overflow-wrap: anywhere }
h1 { font-size: 1.4rem; margin: .5rem 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem } h3 { font-size: 1rem;
  margin: 1.2rem 0 .4rem } small, .more, figcaption, .ends { color: var(--soft); font-weight: normal; font-size: 12px }
ul { margin: .5rem 0; padding: 0 0 0 1.2rem } .reading, .problems { list-style: none; padding: .6rem .9rem;
  border-radius: 6px; background: var(--box) } .problems { background: var(--bad-box); color: var(--bad) }
img, .none { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--box); border-radius: 4px;
  display: block } .none { display: grid; place-items: center; color: var(--soft); font-size: 12px }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); gap: 6px }
.group { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 12px; padding: .8rem 0;
  border-top: 1px solid var(--line) } figure { margin: 0; min-width: 0; max-width: 180px }
figcaption { padding-top: 4px; line-height: 1.35 }
.row { display: grid; grid-template-columns: minmax(4rem, 12rem) 1fr minmax(6.5rem, auto); gap: .8rem;
  align-items: center; padding: 2px 0 } .row div { min-width: 0; line-height: 1.25 }
.n { font-variant-numeric: tabular-nums; text-align: right; font-size: 13px; color: var(--soft) }
.bar { width: 100%; height: 12px; background: var(--box); border-radius: 3px }
.c0 { fill: var(--c0); background: var(--c0) } .c1 { fill: var(--c1); background: var(--c1) }
.c2 { fill: var(--c2); background: var(--c2) } .key span { margin-right: 1rem; font-size: 13px }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1.5rem }
.chart { max-width: none } .chart svg { width: 100%; height: 64px; border-bottom: 1px solid var(--line) }
.plot { max-width: 46rem } .plot svg { width: 100%; height: auto }
.ends { display: flex; justify-content: space-between } .formats .row { grid-template-columns: 5rem 1fr 4rem }
.lead { font-size: 1.05rem; max-width: 46rem } nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: 1rem 0 }
a { color: var(--c0) } summary { cursor: pointer; padding: .3rem 0 } summary:focus-visible, a:focus-visible,
.wide:focus-visible { outline: 2px solid var(--c0) }
.wide { overflow-x: auto; margin: .8rem 0; --veil: linear-gradient(var(--paper) 0 0);
  --shade: color-mix(in srgb, var(--ink) 30%, transparent); background: var(--veil) 0 / 1rem 100% no-repeat local,
  var(--veil) 100% / 1rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) 0 / .6rem 100% no-repeat,
  linear-gradient(to left, var(--shade), transparent) 100% / .6rem 100% no-repeat }
table { border-collapse: collapse; font-size: 14px; overflow-wrap: normal;
  min-width: min(100%, 20rem) }
caption { text-align: left; color: var(--soft); padding: .2rem 0; font-size: 13px }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
th { font-weight: 600; max-width: min(22rem, 45vw); overflow-wrap: break-word } thead th { color: var(--soft);
  vertical-align: bottom }
.numbers td, .numbers thead th + th, .matrix td { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap } .numbers thead th + th { white-space: normal }
.settings th { font-weight: normal; color: var(--soft); max-width: 12rem } .settings td { overflow-wrap: anywhere }
.settings { table-layout: fixed; width: 100% } .columns { columns: 22rem; column-gap: 2rem }
.columns > * { break-inside: avoid; margin-top: 0 }
.matrix td { padding: .4rem .6rem; border: 2px solid var(--paper); min-width: 3rem; print-color-adjust: exact }
.matrix th { padding-right: .8rem } .matrix thead th { max-width: 8rem } .matrix thead th + th { text-align: right }
.matrix .right[style] { background: color-mix(in srgb, var(--c0) calc(50% * var(--share)), var(--box)) }
.matrix .wrong[style] { background: color-mix(in srgb, var(--bad) calc(15% + 35% * var(--share)), var(--box)) }
.cases { padding: 0; list-style: none } .case { display: flex; flex-wrap: wrap; gap: .6rem 2rem; padding: .9rem 0;
  border-top: 1px solid var(--line) } .pair { display: flex; gap: .8rem; flex: 0 1 auto } .pair figure { width: 160px }
.near { flex: 1 1 22rem; max-width: 34rem } .near > div { display: grid; gap: .6rem;
  grid-template-columns: repeat(4, minmax(0, 1fr)) } .near p { margin: 0 0 .4rem; font-size: 13px }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem }
@media (max-width: 600px) { .row { grid-template-columns: 6rem 1fr 6.5rem; gap: .5rem }
  .group { grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)) }
  table { font-size: 12px } th, td { padding-right: .4rem } }
@media print { :root { --ink: #000; --soft: #444; --paper: #fff; --line: #bbb; --box: #f2f4f7; --bad: #a3230f;
  --bad-box: #fdeeea; --c0: #2f6fb3; --c1: #b8700f; --c2: #3c8659 } body { max-width: none;
  font-size: 11px; padding: 0 }
  nav { display: none } h2, h3, caption { break-after: avoid } figure, tr, .case, .group { break-inside: avoid }
  .wide { overflow: visible } img, .bar, i { print-color-adjust: exact } .plots { grid-template-columns: 1fr 1fr } }
"""
