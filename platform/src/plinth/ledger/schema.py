"""The ledger's tables. Changes go through a migration in `migrations/versions`; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
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
    CheckConstraint("status IN ('accepted', 'rejected', 'drill', 'retired')", name="release_status"),
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

# Every generation a product ever had. A rollback is a new generation that points at an old release; the start of a
# rollout is one that points at what serves already.
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
    CheckConstraint("kind IN ('promote', 'rollback', 'start')", name="promotion_kind"),
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

# Every rollout: its plan, where it is (the columns of core.rollouts.State), and `revision`, its compare-and-swap.
rollout = Table(
    "rollout",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("product", String(50), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("candidate", String(64), ForeignKey("release.digest"), nullable=False),
    Column("serving", String(64), ForeignKey("release.digest"), nullable=False),
    Column("plan", Text, nullable=False),
    Column("policy", String(64), nullable=False),
    Column("phase", String(12), nullable=False),
    Column("stage", Integer, nullable=False),
    Column("baked", Float, nullable=False),
    Column("waited", Float, nullable=False),
    Column("resumes", String(12)),
    Column("active", Boolean, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("verdicts", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("started_by", String(200), nullable=False),
    Column("started_at", String(32), nullable=False),
    Column("changed_at", String(32), nullable=False),
    Column("ended_at", String(32)),
    UniqueConstraint("product", "generation", name="rollout_generation"),
    CheckConstraint(
        "phase IN ('waiting', 'shadow', 'canary', 'full', 'paused', 'promoting', 'done', 'aborting', 'rolled-back')",
        name="rollout_phase",
    ),
    Index("rollout_product", "product"),
    # Of a product's rollouts one is active at most, whoever writes.
    Index("rollout_active", "product", unique=True, sqlite_where=text("active"), postgresql_where=text("active")),
)

# What the gates said when a rollout moved, with the evidence: one row a gate and decision.
verdict = Table(
    "verdict",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("rollout", Integer, ForeignKey("rollout.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("phase", String(12), nullable=False),
    Column("stage", Integer, nullable=False),
    Column("at", String(32), nullable=False),
    Column("gate", String(50), nullable=False),
    Column("outcome", String(15), nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    UniqueConstraint("rollout", "revision", "gate", name="verdict_once"),
)

# Who approved which release under which rollout policy. Another digest or another policy, and it counts no more.
approval = Table(
    "approval",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("product", String(50), nullable=False),
    Column("digest", String(64), ForeignKey("release.digest"), nullable=False),
    Column("policy", String(64), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", String(32), nullable=False),
    UniqueConstraint("product", "digest", "policy", "actor", name="approval_once"),
)

# Who acts. `token` grows with every holder and fences the one before; `beat` shows that the holder lives.
lease = Table(
    "lease",
    metadata,
    Column("name", String(50), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("token", Integer, nullable=False),
    Column("beat", Integer, nullable=False),
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
