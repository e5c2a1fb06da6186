"""The error root. Adapters translate their tool's errors into these; each transport renders them once.

Every error says what happened, where, and what to do next.
"""

from __future__ import annotations


class PlinthError(Exception):
    """Something failed. Subclasses say what kind of failure, and so which exit code and HTTP status it gets.

    Args:
        what: What happened, as a sentence without a full stop.
        where: The file and line, service, dataset or field it happened at.
        hint: What to do next.
    """

    exit_code = 1
    http_status = 500

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" (at {self.where})"
        if self.hint:
            text += f". Next: {self.hint}"
        return text

    def as_dict(self) -> dict[str, str]:
        """The error as stable JSON: `kind`, `what`, `where`, `next`."""
        return {"kind": type(self).__name__, "what": self.what, "where": self.where, "next": self.hint}


class InvalidInput(PlinthError):
    """The caller gave something that does not fit: a flag, a manifest, a request field."""

    exit_code = 2
    http_status = 422


class NotFound(PlinthError):
    """The named product, release, dataset or model does not exist."""

    exit_code = 2
    http_status = 404


class RefusedByPolicy(PlinthError):
    """A rule said no: a broken contract, a failed gate, an unowned product, an unsafe model format."""

    exit_code = 3
    http_status = 403


class Conflict(PlinthError):
    """Somebody else changed the same thing first, or it is in use."""

    exit_code = 1
    http_status = 409


class Unavailable(PlinthError):
    """A service, store or disk that is needed cannot be used now."""

    exit_code = 1
    http_status = 503


class Corrupt(PlinthError):
    """Stored bytes are not what their digest says."""

    exit_code = 1
    http_status = 500


class MissingExtra(PlinthError):
    """An optional dependency is not installed."""

    exit_code = 1

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package!r} is not installed",
            where=f"extra {extra!r} of plinth",
            hint=f"uv pip install 'plinth[{extra}]' (or `make install` in the workspace)",
        )
