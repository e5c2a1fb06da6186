"""What a running profile looks like from outside: services and their state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Health = Literal["healthy", "starting", "unhealthy", "stopped"]


@dataclass(frozen=True)
class Service:
    """A process that the profile runs.

    Args:
        name: Also the name of its log file.
        argv: The command, from the interpreter on.
        url: Where a person looks at it.
        health: Address that answers 200 when it is well; or the name of a file in `run/` that holds its process id
            once it is ready, for a process without a port.
        port: The port it listens on, None when it has none.
        setting: The setting that names the port, for messages.
        env: Environment beside the platform's own.
    """

    name: str
    argv: tuple[str, ...]
    url: str
    health: str
    port: int | None = None
    setting: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceStatus:
    """A service as it is now. `restarts` counts from the last `plinth up`."""

    name: str
    url: str
    health: Health
    pid: int | None
    restarts: int


@dataclass(frozen=True)
class Status:
    """The profile as it is now."""

    profile: str
    services: tuple[ServiceStatus, ...]

    @property
    def healthy(self) -> bool:
        """Whether every service is."""
        return all(service.health == "healthy" for service in self.services)

    def as_dict(self) -> dict[str, Any]:
        """Stable JSON: `profile`, and `services` with `name`, `url`, `health`, `pid`, `restarts`."""
        return {"profile": self.profile, "services": [asdict(service) for service in self.services]}


Progress = Callable[[Status], None]
"""Called while waiting, with the profile as it is then."""
