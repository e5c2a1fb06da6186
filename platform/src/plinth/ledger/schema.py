"""The ledger's tables. Changes go through a migration in `migrations/versions`; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# Times are UTC in ISO 8601 with microseconds: they sort as text, and read the same in every database.

release = Table(
    "release",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("product", String(50), nullable=False),
    Column("status", String(10), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("created_by", String(200), nullable=False),
    CheckConstraint("status IN ('accepted', 'rejected')", name="release_status"),
    Index("release_product", "product", "created_at"),
)

# What each product serves: one row a product, compare-and-swap on `generation`.
serving = Table(
    "serving",
    metadata,
    Column("product", String(50), primary_key=True),
    Column("digest", String(64), ForeignKey("release.digest"), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("since", String(32), nullable=False),
)

# Every generation a product ever had. A rollback is a new generation that points at an old release.
promotion = Table(
    "promotion",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("product", String(50), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("digest", String(64), ForeignKey("release.digest"), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", String(32), nullable=False),
    UniqueConstraint("product", "generation", name="promotion_generation"),
    CheckConstraint("kind IN ('promote', 'rollback')", name="promotion_kind"),
)

# Effects on other stores that a transaction here has decided and that still have to be carried out.
outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("product", String(50), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("effect", String(50), nullable=False),
    Column("payload", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("done_at", String(32)),
    UniqueConstraint("product", "generation", "effect", name="outbox_effect"),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", String(32), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(50), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("payload", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("audit_subject", "subject"),
)

# One row: the end of the audit chain. Updating it first is the lock that keeps the chain one chain.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
)

# Facts that other rooms keep: lineage events, retraining triggers.
event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("product", String(50), nullable=False),
    Column("kind", String(50), nullable=False),
    Column("at", String(32), nullable=False),
    Column("payload", Text, nullable=False),
    Index("event_kind", "product", "kind", "at"),
)
