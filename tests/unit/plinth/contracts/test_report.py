"""Reports of a check."""

import json

from plinth.contracts.port import CheckResult, Violation
from plinth.contracts.report import summary, to_html, to_json

EVIL = "<script>alert(1)</script>"
RESULT = CheckResult(
    contract="c", version="1.0.0", digest="d" * 64, dataset="data", batch="2013-01", path=EVIL, rows=3, rules=4,
    violations=(
        Violation("quality", "a", "only a warning", 1, "warning"),
        Violation("enumeration", "a", EVIL, 2, samples=({"row": "0", "a": EVIL, "b": None},)),
        Violation("row-count", None, "too few", 1),
    ),
    skipped=(EVIL,), seconds=0.1,
)  # fmt: skip


def test_html_escapes_everything_that_comes_from_outside():
    page = to_html(RESULT)
    assert EVIL not in page
    assert page.count("&lt;script&gt;") >= 5
    assert "contract broken" in page


def test_json_holds_counts_samples_and_what_was_not_checked():
    document = json.loads(to_json(RESULT))
    assert document["passed"] is False
    assert document["violations"][1]["count"] == 2
    assert document["violations"][1]["samples"] == [{"row": "0", "a": EVIL, "b": None}]
    assert document["skipped"] == [EVIL]


def test_the_summary_puts_what_rules_before_what_warns():
    assert summary(RESULT, limit=2) == f"{EVIL} (2); too few; and 1 more"


def test_a_warning_alone_does_not_break_a_contract():
    from dataclasses import replace

    assert replace(RESULT, violations=RESULT.violations[:1]).passed
    assert not RESULT.passed
