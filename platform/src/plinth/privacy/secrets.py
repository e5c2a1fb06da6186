"""Secrets in texts, found by their structure: keys and tokens that say what they are, never "it looks random".

Documentation is full of digests, which look random; so there is no measure of entropy. What is found says its kind and
place, never itself.
"""

from __future__ import annotations

import re

from plinth.core.privacy import Finding
from plinth.privacy import detect_secrets

# What detect-secrets 1.5 has no plugin for, or finds by a mere mention. Sources: the vendors' own descriptions.
# Each with what must stand in a text for it to match at all: most texts hold none of it and are done at once.
_OWN = (
    ("private-key", "PRIVATE KEY", re.compile(
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:\\[rn]|\s){1,8}"
        r"(?:[A-Za-z-]+: [^\n]{0,200}\s+){0,4}[A-Za-z0-9+/=]{16}"
    )),
    ("private-key", "PuTTY-User-Key-File-", re.compile(r"PuTTY-User-Key-File-\d: [\w-]+\s")),
    ("github-token", "github_pat_", re.compile(r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}")),
    ("openai-key", "sk-", re.compile(
        r"(?<![\w-])sk-(?:(?:proj|svcacct|admin|ant|or)-)?(?=[A-Za-z_-]{0,60}\d)(?=[\w-]{0,60}[A-Z])[A-Za-z0-9_-]{32,200}"
    )),
    ("npm-token", "npm_", re.compile(r"(?<!\w)npm_[A-Za-z0-9]{36}(?!\w)")),
    ("npm-token", "_authToken", re.compile(
        r":_authToken\s{0,3}=\s{0,3}[\"']?[A-Fa-f0-9]{8}(?:-[A-Fa-f0-9]{4}){3}-[A-Fa-f0-9]{12}"
    )),
    ("google-api-key", "AIza", re.compile(r"(?<!\w)AIza[A-Za-z0-9_-]{35}(?![\w-])")),
    ("huggingface-token", "hf_", re.compile(r"(?<!\w)hf_[A-Za-z0-9]{34,40}(?!\w)")),
    ("slack-token", "xapp-", re.compile(r"(?<!\w)xapp-\d-[A-Z0-9]+-\d+-[a-f0-9]{20,}")),
    ("slack-token", "xox", re.compile(r"(?<!\w)xox[aebprs]-[A-Za-z0-9-]{24,}")),
    ("stripe-key", "k_live_", re.compile(r"(?<!\w)[rs]k_live_[0-9A-Za-z]{24,}")),
    ("stripe-key", "whsec_", re.compile(r"(?<!\w)whsec_[A-Za-z0-9+/]{32,}")),
    ("aws-key", "ecret", re.compile(
        r"aws_?secret_?(?:access_?)?key[\"']?\s{0,3}[:=]\s{0,3}[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        re.IGNORECASE,
    )),
)  # fmt: skip
# Passwords of addresses that documentation shows in their place.
_PLACEHOLDER = re.compile(
    r"(?:[\W_]*|x+|(?:my|your|the|some|a)?[_-]?(?:db|user|admin)?[_-]?"
    r"(?:pass(?:word|wd|phrase)?|pw|pwd|secret|token|(?:api[_-]?)?key|credentials?|changeme|redacted|hidden|example)"
    r"|[<{$%\[].*|.*[>}%\]])",
    re.IGNORECASE | re.DOTALL,
)


class Secrets:
    """Finds secrets: keys of clouds and services, tokens, private keys, passwords in addresses. Thread-safe.

    Placeholders (`user:password@host`, `AKIA...EXAMPLE`, `<token>`) are none.
    """

    def find(self, text: str) -> list[Finding]:
        """What stands in the text; see the port. Kinds such as aws-key, github-token, private-key, url-password."""
        found = [*detect_secrets.find(text)]
        for kind, hint, pattern in _OWN:
            if hint in text or (kind == "aws-key" and "ECRET" in text):
                found += [Finding(kind, *match.span()) for match in pattern.finditer(text)]
        found.sort(key=lambda finding: (finding.start, -finding.end))
        kept: list[Finding] = []
        for finding in found:
            if not (kept and finding.start < kept[-1].end) and not _is_example(finding, text):
                kept.append(finding)
        return kept


def _is_example(finding: Finding, text: str) -> bool:
    shown = text[finding.start : finding.end]
    if finding.kind == "url-password":
        user, _, password = shown.removeprefix("://").removesuffix("@").partition(":")
        return password.lower() == user.lower() or _PLACEHOLDER.fullmatch(password) is not None
    return "EXAMPLE" in shown.upper() or re.search(r"(?i)x{8}|\*{4}|\.{3}", shown) is not None
