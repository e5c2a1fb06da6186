"""Removing what a compose project left: containers, volumes, the shared folder. Exactly that project's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plinth.errors import Unavailable
from plinth.runtime.compose import Project
from plinth.runtime.compose_state import check_ours, empty_state


@dataclass(frozen=True)
class Removal:
    """What is there to be removed, or was."""

    project: str
    containers: int
    volumes: tuple[str, ...]
    state: Path | None

    def in_words(self) -> str:
        """For people."""
        folder = f", what is in {self.state}" if self.state else ""
        names = f" ({', '.join(self.volumes)})" if self.volumes else ""
        return f"{self.containers} containers, {len(self.volumes)} volumes{names}{folder}"


def plan(project: Project) -> Removal:
    """What a reset would remove.

    Raises:
        InvalidInput: No `.env` names the project.
        Conflict: The project is another workspace's, or the folder is not surely ours.
        Unavailable: No engine answers.
    """
    name, state = project.name, project.env.get("PLINTH_STATE")
    containers = project.containers()
    folder = Path(state) if state and Path(state).is_dir() else None
    if folder is not None:
        check_ours(folder, name, project.home)
    return Removal(name, len(containers), tuple(project.engine.volumes(name)), folder)


def reset(project: Project, *, remove_env: bool = False) -> Removal:
    """Remove it. Raises as `plan`.

    Raises:
        Unavailable: Something is left.
    """
    planned = plan(project)
    code = project.run("down", "--volumes", "--remove-orphans", "--timeout", "10", file=False)
    left = project.engine.volumes(planned.project)
    if left or project.containers():
        raise Unavailable(
            f"something is left of the project: docker compose down ended with {code}",
            where=", ".join(left) or planned.project,
            hint="what it said stands above; a volume that another container uses is not removed",
        )
    if planned.state is not None:
        empty_state(planned.state, planned.project, project.home)
    if remove_env:
        project.env_file.unlink(missing_ok=True)
    return planned
