"""Secrets are found by their structure; placeholders and digests are none.

The secrets are put together here, so that scanners of repositories do not find them in this file.
"""

import base64
import json
from itertools import pairwise
from pathlib import Path

import pytest

from plinth.privacy.secrets import Secrets

ROOT = Path(__file__).parents[4]
detector = Secrets()
LETTERS = "aB3dE5gH7jK9mN2pQ4sT6vX8zA1cD0fG" * 3


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


SECRETS = {
    "aws-key": "AKIA" + "Z7Q2X9W4E6R8T1Y3",
    "github-token": "ghp" + "_" + LETTERS[:36],
    "gitlab-token": "glpat" + "-" + LETTERS[:20],
    "slack-token": "xoxb" + "-123456789012-123456789012-" + LETTERS[:24].lower(),
    "stripe-key": "sk" + "_live_" + LETTERS[:24],
    "openai-key": "sk" + "-proj-" + LETTERS[:48],
    "npm-token": "npm" + "_" + LETTERS[:36],
    "google-api-key": "AIza" + LETTERS[:35],
    "huggingface-token": "hf" + "_" + LETTERS[:34],
    "azure-key": "AccountKey=" + LETTERS[:86] + "==",
    "jwt": f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded({'sub': '1234567890'})}.{LETTERS[:43]}",
    "private-key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEA" + LETTERS[:40],
    "url-password": "postgresql://plinth" + ":hunter2-" + LETTERS[:8] + "@db.acme.io/ledger",
    "pypi-token": "pypi-" + "AgEIcHlwaS5vcmc" + LETTERS[:80],
    "sendgrid-key": "SG" + "." + LETTERS[:22] + "." + LETTERS[:43],
}


@pytest.mark.parametrize(("kind", "secret"), SECRETS.items())
def test_it_is_found_in_prose_and_in_configuration(kind, secret):
    for text in (f"Use {secret} to log in.", f'key = "{secret}"', f"token: {secret}\n"):
        (finding, *_) = detector.find(text)
        assert finding.kind == kind
        assert text[finding.start : finding.end] in secret


def test_an_aws_secret_is_found_by_its_name():
    assert [finding.kind for finding in detector.find("AWS_SECRET_ACCESS_KEY=" + LETTERS[:40])] == ["aws-key"]


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:password@host/db", "https://user:pass@example.com", "redis://:${REDIS_PASSWORD}@host:6379",
        "https://<user>:<token>@host", "http://x:***@host", "AKIAIOSFODNN7EXAMPLE", "sk-...", "ghp_xxxxxxxxxxxxxxxx",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "sha256:" + "ac" * 32, "AC" + "0f" * 32,
        "-----BEGIN PRIVATE KEY----- is how a key begins", "the risk-based-approach-of-many-parts-in-documents",
        "http://127.0.0.1:8080/a?b=c@d", "550e8400-e29b-41d4-a716-446655440000", "eyJust a word. And another.",
    ],
)  # fmt: skip
def test_placeholders_digests_and_mentions_are_none(text):
    assert detector.find(text) == []


def test_several_are_found_in_order_without_overlaps():
    text = "\n".join(SECRETS.values())
    findings = detector.find(text)
    assert {finding.kind for finding in findings} >= set(SECRETS)
    assert all(a.end <= b.start for a, b in pairwise(findings))


@pytest.mark.parametrize(
    "evil",
    [
        "eyJ" * 300_000,
        "eyJ." * 300_000,
        "/" * 500_000 + ":_authToken",
        "sk-" * 100_000 + "T3BlbkFJ",
        "://a:" * 30_000,
        "sk-" * 30_000,
        "-----BEGIN " * 10_000 + "PRIVATE KEY",
        "aws key " * 9_000,
    ],
)
def test_a_hostile_text_ends(evil):
    detector.find(evil)


def test_none_is_found_in_our_own_documentation():
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert len(paths) > 20
    assert [path.name for path in paths if detector.find(path.read_text())] == []
