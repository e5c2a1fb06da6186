"""Products: the unit of ownership. The typed form of `product.yaml`.

A product without an owner, a service level or a budget is no product: the fields are required.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from plinth.core.assistants import AssistantSpec
from plinth.core.durations import Duration
from plinth.core.gates import Gate
from plinth.core.rollout_policy import ASSISTANT_GATES, DEFAULT_GATES, SUPPORT_EFFECT, Compare, RolloutPolicy, resolve
from plinth.errors import RefusedByPolicy

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=50)]
RelativePath = Annotated[
    # No leading slash, no `..`, no backslash: a product's files stand in its own folder.
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$", max_length=200)
]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
EntryPoint = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]


class Frozen(BaseModel):
    """Immutable, and strict about unknown keys: a misspelt key is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Owner(Frozen):
    """Who answers for the product."""

    team: Text = Field(description="The team that owns the product.")
    contact: Text = Field(description="Where the team is reached: an e-mail address or a channel.")
    on_call: Text = Field(description="The rota that is paged.")


class ServiceLevel(Frozen):
    """One service level: an indicator, its objective and the window it is held over."""

    name: Name
    indicator: Literal["availability", "latency", "quality", "freshness"]
    objective: float = Field(gt=0, lt=1, description="Share of good events, e.g. 0.995.")
    window: Duration = Field(description="Length of the rolling window, e.g. 28d.")
    threshold_ms: float | None = Field(None, gt=0, description="Latency only: a request slower than this is bad.")
    threshold: float | None = Field(
        None,
        description="Quality: the bound that makes a window bad. Freshness: the age in hours that is stale.",
    )

    @model_validator(mode="after")
    def _threshold_fits(self) -> ServiceLevel:
        if self.indicator == "latency" and self.threshold_ms is None:
            raise ValueError("a latency service level needs threshold_ms")
        if self.indicator in ("quality", "freshness") and self.threshold is None:
            raise ValueError(f"a {self.indicator} service level needs threshold")
        return self


class Budget(Frozen):
    """What the product may cost a month."""

    monthly: float = Field(ge=0)
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = Field(description="ISO 4217 code.")
    core_hour: float = Field(0.05, ge=0, description="Price of one core for an hour, for the cost of a request.")


class Pipeline(Frozen):
    """A pipeline of the product."""

    name: Name
    entry: EntryPoint = Field(description="The flow function, as package.module:function.")
    description: Text
    schedule: Annotated[str, StringConstraints(pattern=r"^\S+( \S+){4}$")] | None = Field(
        None, description="Cron expression in UTC; none runs by hand or by trigger only."
    )
    concurrency: int = Field(1, ge=1, description="Runs of this product's pipelines at the same time.")
    timeout: Duration = "1h"


class Serving(Frozen):
    """How the product is served."""

    service: EntryPoint = Field(description="The BentoML service, as package.module:name.")
    port: int = Field(ge=1024, le=65535, description="Port in the embedded profile.")
    max_batch: int = Field(512, ge=1, description="Instances a request may carry.")
    max_body_bytes: int = Field(1_000_000, ge=1024, description="Largest request body.")
    traffic: EntryPoint | None = Field(
        None, description="Requests for drills: function from the platform to request bodies, package.module:function."
    )


class Model(Frozen):
    """The registered model behind the product."""

    name: Name
    feature_service: Text = Field(description="The Feast feature service the model reads.")
    feature_definitions: EntryPoint | None = Field(
        None, description="Function from the folder of feature tables to Feast objects, as package.module:function."
    )


class Monitoring(Frozen):
    """Bounds beyond which retraining is triggered, and how often at most."""

    drift_psi: float = Field(gt=0, description="Population stability index above which a feature counts as drifted.")
    drifted_features: int = Field(ge=1, description="Drifted features at which retraining is triggered.")
    calibration_window: Duration = Field(description="Trailing window of labelled predictions.")
    calibration_gap: float = Field(gt=0, lt=1, description="Largest |mean prediction - outcome rate| over the window.")
    minimum_labels: int = Field(ge=1, description="Labels without which the calibration check says nothing.")
    cool_down: Duration = Field(description="Time after a trigger in which no other one fires.")
    watch: tuple[str, ...] = Field((), description="Features whose drift may trigger; the others are reported only.")


class Tabular(NamedTuple):
    """What a product with a model has, and an assistant has not."""

    model: Model
    monitoring: Monitoring


class Product(Frozen):
    """`services/<name>/product.yaml`."""

    api_version: Literal["plinth/v1"] = Field(alias="apiVersion")
    kind: Literal["Product"]
    name: Name
    title: Text
    description: Text
    owner: Owner
    tier: Literal[1, 2, 3] = Field(description="1: business critical, 2: important, 3: internal or experimental.")
    service_levels: Annotated[tuple[ServiceLevel, ...], Field(min_length=1)]
    budget: Budget
    contracts: Annotated[
        tuple[RelativePath, ...], Field(min_length=1, description="ODCS documents, relative to the product.")
    ]
    pipelines: Annotated[tuple[Pipeline, ...], Field(min_length=1)]
    model: Model | None = Field(None, description="The registered model; a product has this or `assistant`.")
    assistant: AssistantSpec | None = Field(None, description="What the product answers questions with.")
    serving: Serving
    gates: Annotated[tuple[Gate, ...], Field(min_length=1)]
    monitoring: Monitoring | None = Field(None, description="When to retrain; required with `model`.")
    rollout: RolloutPolicy | None = Field(None, description="How releases reach all traffic; default by tier.")
    demo: EntryPoint | None = Field(None, description="A story that shows the product at work: `plinth demo NAME`.")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Product:
        if (self.model is None) == (self.assistant is None):
            raise ValueError("a product has a model or an assistant, one of the two")
        if (self.model is None) != (self.monitoring is None):
            raise ValueError("monitoring is declared with a model, and only then")
        if self.assistant is not None and self.rollout is not None:
            unknown = sorted({gate.kind for gate in self.rollout.gates or ()} & {"quality", "drift"})
            if unknown:
                raise ValueError(
                    f"rollout.gates: {' and '.join(unknown)} cannot judge an assistant, which has no labels and no "
                    "training data; compare, threshold, burn and contract can"
                )
            for gate in self.rollout.gates or ():
                if isinstance(gate, Compare) and gate.metric == "scores" and gate.effect < SUPPORT_EFFECT:
                    raise ValueError(
                        f"rollout.gates: the effect of an assistant's scores is {SUPPORT_EFFECT:g} or more: "
                        f"{gate.effect:g} could never be ruled out"
                    )
        return self

    @field_validator("service_levels", "pipelines")
    @classmethod
    def _names_are_unique(cls, items: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [item.name for item in items]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {', '.join(twice)} stands twice")
        return items

    @property
    def rollout_policy(self) -> RolloutPolicy:
        """How releases are rolled out, with the defaults of the product's tier and kind filled in."""
        gates = DEFAULT_GATES if self.assistant is None else ASSISTANT_GATES
        return resolve(self.rollout, self.tier, gates)

    @property
    def request_path(self) -> str:
        """What the service is asked at."""
        return "/predict" if self.assistant is None else "/ask"

    @property
    def latency_thresholds(self) -> tuple[float, ...]:
        """Seconds that its service levels judge latency by."""
        return tuple(level.threshold_ms / 1000 for level in self.service_levels if level.threshold_ms is not None)

    def tabular(self) -> Tabular:
        """The model, and when it is retrained.

        Raises:
            RefusedByPolicy: The product is an assistant.
        """
        if self.model is None or self.monitoring is None:
            raise RefusedByPolicy(
                f"{self.name} is an assistant and has no model to watch",
                where=self.name,
                hint="that is for products with a model: `plinth index status` and `plinth eval` watch assistants",
            )
        return Tabular(self.model, self.monitoring)

    def answers(self) -> AssistantSpec:
        """What the assistant is made of.

        Raises:
            RefusedByPolicy: The product has a model and answers no questions.
        """
        if self.assistant is None:
            raise RefusedByPolicy(
                f"{self.name} is no assistant", where=self.name, hint="add `assistant:` to its product.yaml"
            )
        return self.assistant

    def pipeline(self, name: str) -> Pipeline | None:
        """The pipeline of that name, or None."""
        return next((pipeline for pipeline in self.pipelines if pipeline.name == name), None)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `product.yaml`, as published in docs/reference/product.schema.json."""
    schema = Product.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Plinth product"}
