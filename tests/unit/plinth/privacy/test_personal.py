"""Personal data is found by its form and its checksum, and what only looks like it is left alone."""

from pathlib import Path

import pytest

from plinth.core.privacy import redact
from plinth.privacy.personal import PersonalData

ROOT = Path(__file__).parents[4]
detector = PersonalData()


def found(text):
    return [(finding.kind, text[finding.start : finding.end]) for finding in detector.find(text)]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "jane.doe@acme.io"),
        ("email", "o'neil+news@mail.acme.co.uk"),
        ("email", "jane [at] acme [dot] io"),
        ("email", "jane(at)acme.io"),
        ("email", "иван@почта.рф"),
        ("phone", "+49 151 23456789"),
        ("phone", "+49 (0)30 901820"),
        ("phone", "0049 30 901820"),
        ("phone", "+44 20 7946 0958"),
        ("phone", "+1 415 555 0132"),
        ("phone", "(415) 555-0132"),
        ("phone", "415-555-0132"),
        ("phone", "415.555.2671"),
        ("phone", "1-800-555-0199"),
        ("card", "4111 1111 1111 1111"),
        ("card", "4111111111111111"),
        ("card", "3782-822463-10005"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "de89370400440532013000"),
        ("iban", "GB29 NWBK 6016 1331 9268 19"),
        ("ssn", "123-45-6789"),
    ],
)
def test_it_is_found_alone_and_in_a_sentence(kind, text):
    assert found(text) == [(kind, text)]
    assert found(f"Write to {text}, today.") == [(kind, text)]
    assert found(f"Before.\n{text}\nAfter.") == [(kind, text)]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "ja\u200bne@ac\u00adme.io"),
        ("email", "ｊａｎｅ＠acme.io"),
        ("card", "４１１１ １１１１ １１１１ １１１１"),
        ("card", "4111\u00a01111\u00a01111\u00a01111"),
        ("phone", "415–555–0132"),
        ("phone", "415 555\n2671"),
        ("iban", "DE89 3704 0044\n0532 0130 00"),
        ("ssn", "123\u201145\u20116789"),
    ],
)
def test_odd_characters_and_line_breaks_do_not_hide_it(kind, text):
    assert found(f"see {text} there") == [(kind, text)]


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com", "ops@team.example", "root@localhost", "git@github.com:owner/name.git", "x @ y.mean()",
        "postgresql://plinth:secret@db.acme.io/ledger", "@app.get('/x')", "127.0.0.1:8080", "192.168.100.1234",
        "2013-06-01T00:00:00", "1.2.3-4.5.678", "CVE-2026-2614, -2652, -2393", "@@ -12,3 +45,6 @@", "a" * 64,
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "1234567890123456", "4111111111111112",
        "1700000000000", "line 4155550132", "DE89 3704 0044 0532 0130 01", "000-12-3456", "1 234 567 890", "+1 -1",
        "550e8400-e29b-41d4-a716-446655440000",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_left_alone(text):
    assert found(text) == []


def test_a_region_adds_its_national_numbers():
    assert found("Ruf 030 901820 an") == []
    assert [finding.kind for finding in PersonalData("DE").find("Ruf 030 901820 an")] == ["phone"]


def test_findings_come_in_order_and_redacting_leaves_the_rest_as_it_was():
    text = "Call +49 151 23456789 or write jane@acme.io; card 4111 1111 1111 1111."
    redacted = redact(text, detector.find(text))
    assert redacted.text == "Call [phone] or write [email]; card [card]."
    assert redacted.counts == {"phone": 1, "email": 1, "card": 1}


def test_redacting_twice_changes_nothing_more():
    once = redact("jane@acme.io 123-45-6789", detector.find("jane@acme.io 123-45-6789")).text
    assert detector.find(once) == []


@pytest.mark.parametrize("evil", ["1" * 50_000, "1 " * 50_000, "a@" * 50_000, "a." * 50_000 + "@b", "DE89" * 20_000])
def test_a_hostile_text_ends(evil):
    detector.find(evil)


def test_nothing_is_found_in_our_own_documentation():
    texts = [path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]]
    assert len(texts) > 20
    assert [found(text) for text in texts if found(text)] == []
