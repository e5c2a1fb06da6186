"""Rollouts, their verdicts, approvals and the lease; releases of drills, and retired ones."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

PHASES = "('waiting', 'shadow', 'canary', 'full', 'paused', 'promoting', 'done', 'aborting', 'rolled-back')"


def upgrade() -> None:
    """Create the tables, and let a release be a drill's or retired, and a generation be a rollout's start."""
    with op.batch_alter_table("release") as table:
        table.drop_constraint("release_status", type_="check")
        table.create_check_constraint("release_status", "status IN ('accepted', 'rejected', 'drill', 'retired')")
    with op.batch_alter_table("promotion") as table:
        table.drop_constraint("promotion_kind", type_="check")
        table.create_check_constraint("promotion_kind", "kind IN ('promote', 'rollback', 'start')")
    op.create_table(
        "rollout",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("product", sa.String(50), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("candidate", sa.String(64), sa.ForeignKey("release.digest"), nullable=False),
        sa.Column("serving", sa.String(64), sa.ForeignKey("release.digest"), nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("policy", sa.String(64), nullable=False),
        sa.Column("phase", sa.String(12), nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("baked", sa.Float, nullable=False),
        sa.Column("waited", sa.Float, nullable=False),
        sa.Column("resumes", sa.String(12)),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("verdicts", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("started_by", sa.String(200), nullable=False),
        sa.Column("started_at", sa.String(32), nullable=False),
        sa.Column("changed_at", sa.String(32), nullable=False),
        sa.Column("ended_at", sa.String(32)),
        sa.UniqueConstraint("product", "generation", name="rollout_generation"),
        sa.CheckConstraint(f"phase IN {PHASES}", name="rollout_phase"),
    )
    op.create_index("rollout_product", "rollout", ["product"])
    active = sa.text("active")
    op.create_index("rollout_active", "rollout", ["product"], unique=True, sqlite_where=active, postgresql_where=active)
    op.create_table(
        "verdict",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("rollout", sa.Integer, sa.ForeignKey("rollout.id"), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(12), nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("gate", sa.String(50), nullable=False),
        sa.Column("outcome", sa.String(15), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.UniqueConstraint("rollout", "revision", "gate", name="verdict_once"),
    )
    op.create_table(
        "approval",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("product", sa.String(50), nullable=False),
        sa.Column("digest", sa.String(64), sa.ForeignKey("release.digest"), nullable=False),
        sa.Column("policy", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.UniqueConstraint("product", "digest", "policy", "actor", name="approval_once"),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String(50), primary_key=True),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("beat", sa.Integer, nullable=False),
    )
