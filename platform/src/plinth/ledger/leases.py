"""Leases: of several processes that could act, one does, and what the one before still writes is refused.

No clock is compared between machines: a holder shows that it lives by a counter, and whoever wants the lease watches
that counter by its own monotonic clock (the method of Kubernetes' leader election). A wall clock that jumps changes
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from plinth.core.failpoints import failpoint
from plinth.errors import Conflict
from plinth.ledger import schema
from plinth.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class Lease:
    """Held by `holder`; `token` is larger than that of every holder before."""

    name: str
    holder: str
    token: int


class Candidate:
    """One process that wants a lease, and what it has seen of the holder.

    Args:
        ledger: Where the lease is kept.
        name: The lease's name.
        holder: Who wants it, unique: host, process id, and something random.
        patience: Seconds without a sign of life after which the holder counts as dead.
        clock: Monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        holder: str,
        *,
        patience: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._name = name
        self._holder = holder
        self._patience = patience
        self._clock = clock
        self._seen: tuple[int, int] | None = None
        self._since = 0.0
        self.lease: Lease | None = None

    def hold(self) -> Lease | None:
        """Take or keep the lease: the lease while it is ours, else None. Call it several times within `patience`."""
        if self.lease is not None and self._renew(self.lease):
            return self.lease
        self.lease = self._take()
        if self.lease is not None:
            failpoint("lease.after-acquire")
        return self.lease

    def release(self) -> None:
        """Give it up at once, so that nobody has to wait."""
        table = schema.lease
        if self.lease is not None:
            with self._ledger.write() as connection:
                connection.execute(
                    table.update()
                    .where(table.c.name == self._name, table.c.token == self.lease.token)
                    .values(holder="", beat=table.c.beat + 1)
                )
            self.lease = None

    def _renew(self, lease: Lease) -> bool:
        table = schema.lease
        with self._ledger.write() as connection:
            renewed = connection.execute(
                table.update()
                .where(table.c.name == self._name, table.c.token == lease.token, table.c.holder == self._holder)
                .values(beat=table.c.beat + 1)
            )
        return renewed.rowcount == 1

    def _take(self) -> Lease | None:
        table = schema.lease
        with self._ledger.read() as connection:
            row = connection.execute(sa.select(table).where(table.c.name == self._name)).first()
        if row is None:
            try:
                with self._ledger.write() as connection:
                    connection.execute(table.insert().values(name=self._name, holder=self._holder, token=1, beat=0))
            except Conflict:
                return None
            return Lease(self._name, self._holder, 1)
        now, sign = self._clock(), (row.token, row.beat)
        if sign != self._seen:
            self._seen, self._since = sign, now
        if row.holder and now - self._since < self._patience:
            return None
        with self._ledger.write() as connection:
            taken = connection.execute(
                table.update()
                .where(table.c.name == self._name, table.c.token == row.token, table.c.beat == row.beat)
                .values(holder=self._holder, token=row.token + 1, beat=0)
            )
        return Lease(self._name, self._holder, row.token + 1) if taken.rowcount == 1 else None


def sign_of_life(ledger: Ledger, name: str) -> tuple[int, int] | None:
    """Token and counter of a lease, which change while somebody holds it; None when nobody ever did or it was given up.

    Raises:
        Unavailable: As `Ledger`.
    """
    table = schema.lease
    with ledger.read() as connection:
        row = connection.execute(sa.select(table).where(table.c.name == name)).first()
    return None if row is None or not row.holder else (row.token, row.beat)


def check_held(connection: sa.Connection, lease: Lease) -> None:
    """Within a transaction: the lease is still ours. For the rooms of the ledger only.

    Raises:
        Conflict: Somebody else has taken it: this process was taken for dead.
    """
    table = schema.lease
    # An update and not a select, so that a taker waits for this transaction's end, or this one for the taker's.
    held = connection.execute(
        table.update()
        .where(table.c.name == lease.name, table.c.token == lease.token, table.c.holder == lease.holder)
        .values(beat=table.c.beat + 1)
    )
    if held.rowcount != 1:
        raise Conflict(f"the lease {lease.name!r} was taken by another process", hint="it acts now; nothing to do")
