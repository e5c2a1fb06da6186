"""The structured plugins of detect-secrets.

Those that guess (entropy, variable names, public IPs), that find what is no secret (Twilio's account ids) or whose
pattern takes quadratic time on a hostile text (npm, OpenAI; JWT's is replaced) are not used.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from plinth.core.privacy import Finding
from plinth.errors import MissingExtra

# Module and class of a plugin, the kind we name it, and what must stand in a text for it to match at all.
_PLUGINS = (
    ("aws", "AWSKeyDetector", "aws-key", ("AKIA", "ASIA", "ABIA", "ACCA", "A3T", "aws", "AWS")),
    ("azure_storage_key", "AzureStorageKeyDetector", "azure-key", ("AccountKey=",)),
    ("basic_auth", "BasicAuthDetector", "url-password", ("://",)),
    ("github_token", "GitHubTokenDetector", "github-token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    ("gitlab_token", "GitLabTokenDetector", "gitlab-token", ("gl", "GR1348941")),
    ("jwt", "JwtTokenDetector", "jwt", ("eyJ",)),
    ("pypi_token", "PypiTokenDetector", "pypi-token", ("pypi-AgE",)),
    ("sendgrid", "SendGridDetector", "sendgrid-key", ("SG.",)),
    ("slack", "SlackDetector", "slack-token", ("xox", "XOX", "hooks.slack.com")),
    ("stripe", "StripeDetector", "stripe-key", ("k_live_",)),
    ("telegram_token", "TelegramBotTokenDetector", "telegram-token", (":AA",)),
)
_JWT = re.compile(r"(?<![\w.-])eyJ[\w=-]{8,8000}\.[\w=-]{2,8000}(?:\.[\w=-]{1,2000})?", re.ASCII)
_WORD = re.compile(r"\w")


def find(text: str) -> Iterator[Finding]:
    """What the plugins' patterns match, overlaps included.

    Raises:
        MissingExtra: detect-secrets is not installed.
    """
    for kind, plugin, hints in _plugins():
        if not any(hint in text for hint in hints):
            continue
        for pattern in (_JWT,) if kind == "jwt" else plugin.denylist:
            for match in pattern.finditer(text):
                start, end = match.span()
                # A token inside a longer word is a piece of something else, such as a digest.
                inside = text[start].isalnum() and start > 0 and _WORD.match(text[start - 1])
                if inside or (kind == "jwt" and not plugin.is_formally_valid(match[0])):
                    continue
                yield Finding(kind, start, end)


@lru_cache(maxsize=1)
def _plugins() -> list[tuple[str, Any, tuple[str, ...]]]:
    try:
        return [
            (kind, getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)(), hints)
            for module, name, kind, hints in _PLUGINS
        ]
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "detect_secrets", "privacy") from error
