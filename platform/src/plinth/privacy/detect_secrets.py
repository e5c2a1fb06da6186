"""The structured plugins of detect-secrets. Those that guess (entropy, variable names, public IPs) are not used."""

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
    ("npm", "NpmDetector", "npm-token", ("_authToken",)),
    ("openai", "OpenAIDetector", "openai-key", ("T3BlbkFJ",)),
    ("pypi_token", "PypiTokenDetector", "pypi-token", ("pypi-AgE",)),
    ("sendgrid", "SendGridDetector", "sendgrid-key", ("SG.",)),
    ("slack", "SlackDetector", "slack-token", ("xox", "XOX", "hooks.slack.com")),
    ("stripe", "StripeDetector", "stripe-key", ("k_live_",)),
    ("telegram_token", "TelegramBotTokenDetector", "telegram-token", (":AA",)),
    ("twilio", "TwilioKeyDetector", "twilio-key", ("AC", "SK")),
)
_WORD = re.compile(r"\w")


def find(text: str) -> Iterator[Finding]:
    """What the plugins' patterns match, overlaps included.

    Raises:
        MissingExtra: detect-secrets is not installed.
    """
    for kind, plugin, hints in _plugins():
        if not any(hint in text for hint in hints):
            continue
        for pattern in plugin.denylist:
            for match in pattern.finditer(text):
                start, end = match.span()
                # A token inside a longer word is a piece of something else, such as a digest.
                inside = text[start].isalnum() and start > 0 and _WORD.match(text[start - 1])
                if inside or (kind == "jwt" and not _is_jwt(plugin, text, start)):
                    continue
                yield Finding(kind, start, end)


def _is_jwt(plugin: Any, text: str, start: int) -> bool:
    # The plugin's own pattern stops before the signature, which is optional; its check of the parts is what counts.
    token = re.compile(r"[\w=-]+\.[\w=-]+(?:\.[\w=-]*)?").match(text, start)
    return token is not None and bool(plugin.is_formally_valid(token[0].rstrip(".")))


@lru_cache(maxsize=1)
def _plugins() -> list[tuple[str, Any, tuple[str, ...]]]:
    try:
        return [
            (kind, getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)(), hints)
            for module, name, kind, hints in _PLUGINS
        ]
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "detect_secrets", "privacy") from error
