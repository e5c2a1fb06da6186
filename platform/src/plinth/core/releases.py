"""Releases: the unit of change. An immutable manifest that pins by sha256 everything that decides behaviour."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from plinth.core.assistants import IndexRef
from plinth.core.digests import digest_json
from plinth.core.gates import Verdict
from plinth.errors import RefusedByPolicy

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


class PromptRef(_Frozen):
    """A prompt template: its version in the registry, and the sha256 of its text."""

    name: str
    version: str
    digest: Sha256


class AdapterRef(_Frozen):
    """An adapter of a generator (such as LoRA weights), by content."""

    name: str
    digest: Sha256


class GeneratorRef(_Frozen):
    """The model that generates, and the digest of all its parameters, fallback and limits included."""

    provider: str
    model: str
    digest: Sha256


class EmbeddingRef(_Frozen):
    """The embedding model: the digest is of weights, tokenizer and how they are run."""

    provider: str
    model: str
    digest: Sha256


class AssistantRef(_Frozen):
    """Everything that decides an assistant's answers; `assistant.json` among the artefacts holds it all in full."""

    index: IndexRef
    embedding: EmbeddingRef
    chunking: Sha256
    retrieval: Sha256
    prompts: tuple[PromptRef, ...]
    generator: GeneratorRef
    guardrails: Sha256
    adapters: tuple[AdapterRef, ...] = ()


class Tabular(NamedTuple):
    """What a model's release pins, and an assistant's does not."""

    model: ModelRef
    feature_service: FeatureServiceRef


class ReleaseManifest(_Frozen):
    """Everything that decides behaviour. Its digest is its name. It pins a model and its features, or an assistant.

    `artifacts` maps a file name of the serving bundle (`model.onnx`, `read_plan.json`, `reference.json`, or
    `assistant.json`) to the sha256 of its content in the artefact store. `verdicts` hold the gate evidence: a candidate
    whose gates failed is a release too, with `status` "rejected" in the ledger, and can never be promoted.
    """

    schema_version: Literal[1] = 1
    product: str
    model: ModelRef | None = None
    feature_service: FeatureServiceRef | None = None
    assistant: AssistantRef | None = None
    contracts: tuple[ContractRef, ...]
    data: tuple[DataRef, ...]
    code: CodeRef
    artifacts: dict[str, Sha256]
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    created_at: str
    pipeline_run: str

    @model_validator(mode="after")
    def _is_one_thing(self) -> ReleaseManifest:
        tabular = self.model is not None and self.feature_service is not None
        if tabular == (self.assistant is not None) or (self.model is None) != (self.feature_service is None):
            raise ValueError("a release has a model with its feature service, or an assistant")
        return self

    @model_serializer(mode="wrap")
    def _without_what_it_is_not(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A part that is not there is not written: the digests of older releases stay what they are."""
        value: dict[str, Any] = handler(self)
        return {
            name: part
            for name, part in value.items()
            if part is not None or name not in ("model", "feature_service", "assistant")
        }

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

    def tabular(self) -> Tabular:
        """The model and its feature service.

        Raises:
            RefusedByPolicy: It is an assistant's release.
        """
        if self.model is None or self.feature_service is None:
            raise RefusedByPolicy(
                f"a release of {self.product} is an assistant's and has no model",
                where=self.product,
                hint=f"`plinth release show {self.product}` shows what it pins",
            )
        return Tabular(self.model, self.feature_service)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ReleaseManifest:
        """The manifest from its JSON form."""
        return cls.model_validate(value)
