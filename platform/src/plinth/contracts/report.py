"""The report of a check, as JSON for machines and HTML for people."""

from __future__ import annotations

import json
from html import escape

from plinth.contracts.port import CheckResult, Violation

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; margin: .5rem 0 1.5rem; }
th, td { border: 1px solid #d0d7de; padding: .25rem .5rem; text-align: left; white-space: nowrap; }
th { background: #f6f8fa; } td.bad { background: #ffebe9; } .null { color: #8c959f; }
.passed { color: #1a7f37; } .broken { color: #cf222e; } code { background: #f6f8fa; padding: 0 .25rem; }
"""


def to_json(result: CheckResult) -> str:
    """The result as indented JSON with a final line break."""
    return json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n"


def to_html(result: CheckResult) -> str:
    """The result as one self-contained page: no script, no outside address, every value escaped."""
    verdict = "passed" if result.passed else "broken"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{escape(result.dataset)} {escape(result.batch)}: contract {verdict}</title><style>{_STYLE}</style>",
        f"</head><body><h1>{escape(result.dataset)} {escape(result.batch)}: <span class='{verdict}'>contract {verdict}"
        "</span></h1>",
        f"<p>Contract <b>{escape(result.contract)}</b> version {escape(result.version)} "
        f"(<code>{escape(result.digest[:12])}</code>). {result.rules} rules on {result.rows:,} rows "
        f"in {result.seconds:.2f} s. File <code>{escape(result.path)}</code>.</p>",
    ]
    if result.violations:
        parts.append(_summary(result))
        parts += [_samples(violation) for violation in result.violations if violation.samples]
    if result.skipped:
        items = "".join(f"<li>{escape(item)}</li>" for item in result.skipped)
        parts.append(f"<h2>Not checked</h2><ul>{items}</ul>")
    return "\n".join([*parts, "</body></html>\n"])


def summary(result: CheckResult, limit: int = 3) -> str:
    """The broken rules in one line, the hard ones first."""
    ordered = sorted(result.violations, key=lambda violation: violation.severity != "error")
    shown = [f"{item.message} ({item.count:,})" if item.count > 1 else item.message for item in ordered[:limit]]
    more = len(ordered) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _summary(result: CheckResult) -> str:
    rows = "".join(
        f"<tr><td>{escape(item.severity)}</td><td>{escape(item.rule)}</td><td>{escape(item.column or '')}</td>"
        f"<td>{escape(item.message)}</td><td>{item.count:,}</td></tr>"
        for item in result.violations
    )
    head = "<tr><th>severity</th><th>rule</th><th>column</th><th>what</th><th>rows</th></tr>"
    return f"<h2>Broken rules</h2><table>{head}{rows}</table>"


def _samples(violation: Violation) -> str:
    names = list(violation.samples[0])
    broken = {name.strip() for name in (violation.column or "").split(",")}
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        "<tr>" + "".join(_cell(sample.get(name), name in broken) for name in names) + "</tr>"
        for sample in violation.samples
    )
    title = f"{escape(violation.message)}: {len(violation.samples)} of {violation.count:,}"
    return f"<h3>{title}</h3><table><tr>{head}</tr>{rows}</table>"


def _cell(value: str | None, bad: bool) -> str:
    shown = "<span class='null'>null</span>" if value is None else escape(value)
    return f"<td{' class=bad' if bad else ''}>{shown}</td>"
