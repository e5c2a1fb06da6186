"""Releases: the unit of change. An immutable manifest that pins by sha256 everything that decides behaviour."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

from plinth.core.digests import digest_json
from plinth.core.gates import Verdict

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRef(_Frozen):
    """The model, as registered."""

    name: str
    version: str
    run_id: str
    format: Literal["onnx", "lightgbm-text", "xgboost-json", "safetensors", "skops"]


class ContractRef(_Frozen):
    """A data contract, by version and content."""

    id: str
    version: str
    digest: Sha256


class DataRef(_Frozen):
    """A dataset the release was made from."""

    name: str
    role: Literal["train", "validate", "evaluate"]
    start: str
    end: str
    rows: int = Field(ge=0)
    digest: Sha256


class CodeRef(_Frozen):
    """The code the release was made by. `dirty` says that uncommitted changes were there."""

    commit: str
    dirty: bool


class FeatureServiceRef(_Frozen):
    """The feature service, and the digest of its compiled read plan."""

    name: str
    digest: Sha256


class ReleaseManifest(_Frozen):
    """Everything that decides behaviour. Its digest is its name.

    `artifacts` maps a file name of the serving bundle (`model.onnx`, `read_plan.json`, `reference.json`) to the
    sha256 of its content in the artefact store. `verdicts` hold the gate evidence: a candidate whose gates failed is
    a release too, with `status` "rejected" in the ledger, and can never be promoted.
    """

    schema_version: Literal[1] = 1
    product: str
    model: ModelRef
    feature_service: FeatureServiceRef
    contracts: tuple[ContractRef, ...]
    data: tuple[DataRef, ...]
    code: CodeRef
    artifacts: dict[str, Sha256]
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    created_at: str
    pipeline_run: str

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of the manifest."""
        return digest_json(self.model_dump(mode="json"))

    @property
    def accepted(self) -> bool:
        """Whether every gate passed (a manifest with no verdict is not accepted)."""
        return bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)

    def failed_gates(self) -> list[Verdict]:
        """The verdicts that said no."""
        return [verdict for verdict in self.verdicts if not verdict.passed]

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ReleaseManifest:
        """The manifest from its JSON form."""
        return cls.model_validate(value)
