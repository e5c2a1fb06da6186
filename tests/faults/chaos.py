"""Chaos: kill -9 of everything, again and again, and then a look whether the platform is whole.

    make chaos SEED=7 KILLS=100 DATABASE=sqlite

runs, and with the same seed plays again: every process's fate at its birth comes from (seed, role, incarnation), every
decision from the seed. How the processes interleave is the machine's.

What is real: the ledger on SQLite or PostgreSQL, the MLflow registry on SQLite, the artefact store, the product's
service (BentoML, ONNX Runtime, the online store of `bench/synthetic_state.py`), the controller's loop with its lease,
gates and projection, pipelines under InlineRunner that log to MLflow and register releases, and people's commands, each
in a process of its own. Processes are forked from one that has imported everything, so that a start takes milliseconds;
they share no connection. A kill is SIGKILL: at a named failpoint, or at a random moment. It is no power cut.

What is not: the evidence. Rollouts bake 0.2 s a stage, in which no traffic proves anything, so the gates judge recorded
counts: releases whose digest begins with 0 to 4 count as failing every other request. The lease's times are a third or
less of the real ones, so that a take-over costs 1.5 s.
"""

import argparse
import contextlib
import ctypes
import gc
import http.client
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench import synthetic_state as synthetic
from faults.forking import fork_context
from faults.postgres import PostgresServer
from flight_delays import feature_definitions, vector
from flight_delays import service as flight_service
from patience import PATIENCE
from plinth.core.digests import digest_bytes
from plinth.core.evidence import LATENCY_BINS, SCORE_BINS, Cell, Evidence
from plinth.core.gates import Verdict
from plinth.core.releases import CodeRef, FeatureServiceRef, ModelRef, ReleaseManifest
from plinth.core.rollout_policy import Threshold
from plinth.core.rollouts import ENDED, Plan, Stage
from plinth.errors import Conflict, NotFound, PlinthError, RefusedByPolicy
from plinth.ledger.leases import Candidate
from plinth.ledger.rollouts import Rollouts
from plinth.models.mlflow import MlflowRegistry
from plinth.models.mlflow_connection import MlflowConnection
from plinth.models.port import Training
from plinth.pipelines.port import PipelineContext
from plinth.pipelines.step import step
from plinth.rollouts import commands, projection, release
from plinth.rollouts import controller as moves
from plinth.rollouts.approvals import policy_digest
from plinth.runtime import controller as controller_process
from plinth.runtime import fsck
from plinth.settings import Settings
from plinth.telemetry import logs
from plinth.wiring import Platform

PRODUCT = synthetic.PRODUCT
PLAN = Plan(
    strategy="canary",
    stages=(Stage(kind="canary", percent=50, bake=0.2), Stage(kind="full", percent=100, bake=0.2)),
    patience=20,
    approvals=0,
    own_approval=True,
    gates=(Threshold(kind="threshold", metric="error-rate", maximum=0.1),),
)
PRELOAD = [
    "_bentoml_impl.server.app", "mlflow.onnx", "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store", "plinth.core.rollout_gates", "plinth.features.readplan",
    "plinth.models.mlflow", "plinth.pipelines.inline", "plinth.serving.http", "plinth.serving.ledger",
    "plinth.serving.onnxruntime", "plinth.serving.pages", "plinth.serving.pyarrow", "plinth.serving.uvicorn",
    "plinth.telemetry.observer", "plinth.telemetry.prometheus", "plinth.telemetry.traces", "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl", "flight_delays.api", "onnxruntime",
    "faults.chaos",
]  # fmt: skip
BATCH = 10
"""Kills between two looks."""

FAILPOINTS = {
    "controller": (
        "lease.after-acquire", "rollout.save.before-commit", "rollout.save.after-commit", "alias.before-write",
        "alias.after-write", "effect.before-done",
    ),
    "service": ("route.before-load", "route.after-load"),
    "pipeline": ("artifact.before-rename", "release.register", "step.after-run"),
}  # fmt: skip
_SWAP, _MOVE = (
    ("promote.begin", "promote.before-commit", "promote.after-commit"),
    ("rollout.save.before-commit", "rollout.save.after-commit"),
)
COMMANDS = {
    "start": ("rollout.start.before-commit",), "promote": _SWAP, "rollback": _SWAP + _MOVE, "abort": _MOVE,
    "pause": _MOVE, "resume": _MOVE,
}  # fmt: skip
"""What people do, and the failpoints on the way."""
LIVES = {"controller": (0.3, 5.0), "service": (0.8, 5.0), "pipeline": (0.05, 1.5), "operator": (0.0, 0.1)}
"""Seconds until a random kill, from and to. One who waits at a failpoint that nobody reaches dies at the end."""
PLANNED = {"controller": 0.5, "service": 0.25, "pipeline": 0.5, "operator": 0.7}
"""Share of the lives that are to end at a failpoint."""


gc.freeze()  # a forked process need not walk what was imported, in its own collections


# The processes -------------------------------------------------------------------------------------------------------


def become(environment, log):
    """In the child: the settings of the world, its log, and no life after its parent's."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def acknowledge(settings, **what):
    """Tell the driver that a call has returned. One write of one line: the kernel has it whole, or not at all."""
    handle = os.open(settings.state_dir / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, (json.dumps(what) + "\n").encode())
    os.close(handle)


def recorded_evidence(rollout):
    """Counts of 400 requests an arm and step. A release whose digest begins with 0 to 4 failed half of them."""
    cells = []
    for number in range(1, len(rollout.plan.stages) + 1):
        for arm, digest in (("candidate", rollout.candidate), ("serving", rollout.serving)):
            errors = 200 if arm == "candidate" and digest[0] in "01234" else 0
            latency, scores = [0] * LATENCY_BINS, [0] * SCORE_BINS
            latency[10], scores[20] = 400, 400 - errors
            cells.append(Cell(number, arm, digest, 400, errors, tuple(latency), tuple(scores), 400 - errors))
    return Evidence(cells=tuple(cells))


def run_controller(environment, log, evidence="recorded", quick=True):
    """`python -m plinth.runtime.controller`, by default with quick lease times and recorded evidence.

    Where `evidence` is the path of a file that exists, this process stops (SIGSTOP) while it gathers evidence, once.
    """
    become(environment, log)
    if quick:
        moves.RENEW_SECONDS, moves.TRUST_SECONDS, moves.SAVE_SECONDS, moves.LONGEST_WAIT = 0.2, 0.9, 0.1, 2.0
        controller_process.Candidate = partial(Candidate, patience=1.5)
        projection.VERIFY_SECONDS = 3.0
    if evidence != "real":
        controller_process.Collector = lambda *_, **__: recorded_evidence

    def stop_and_record(rollout):
        if Path(evidence).exists():
            Path(evidence).unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return recorded_evidence(rollout)

    if evidence not in {"real", "recorded"}:
        controller_process.Collector = lambda *_, **__: stop_and_record
    platform = Platform.from_settings()
    logs.configure("controller", "INFO")
    controller_process.run(platform, interval=0.1)


def make_registry(path):
    """An empty MLflow database with every table, which takes MLflow seconds to make."""
    MlflowRegistry(MlflowConnection(f"sqlite:///{path}"), Path(path).parent / "artifacts").versions()


def run_service(environment, log, port):
    """`python -m flight_delays.service`."""
    become(environment, log)
    sys.exit(flight_service.main(["--port", str(port)]))


def tiny_model(seed):
    """A logistic regression as ONNX: float32 [n, k] to probabilities [n, 2]."""
    count = len(vector.FEATURES)
    weights = np.random.default_rng(seed).normal(0, 0.01, (count, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "weights"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["yes"]),
            helper.make_node("Sub", ["one", "yes"], ["no"]),
            helper.make_node("Concat", ["no", "yes"], ["probabilities"], axis=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, count])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.ones(1, dtype=np.float32), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@step(version="1", cache=False)
def train(context: PipelineContext[Platform], seed: int) -> str:
    """A model file."""
    path = context.folder / f"model-{seed}.onnx"
    path.write_bytes(tiny_model(seed))
    return str(path)


@step(version="1", cache=False)
def log_model(context: PipelineContext[Platform], path: str) -> list[str]:
    """A version in MLflow: its number and its run."""
    training = Training(
        product=PRODUCT, model=PRODUCT, model_file=Path(path), feature_names=vector.FEATURES,
        input_example=np.zeros((2, len(vector.FEATURES)), dtype=np.float32), output_example=[0.5, 0.5], params={},
        metrics={"auc": 0.7}, datasets=[], commit="0" * 40, dirty=True, pip_requirements=["onnxruntime"],
    )  # fmt: skip
    version = context.ports.registry.log_training(training)
    return [version.version, version.run_id]


@step(version="1", cache=False)
def register(context: PipelineContext[Platform], path: str, version: list[str], seed: int) -> str:
    """The bundle's artefacts, and the release in the ledger: its digest."""
    plan = json.dumps(synthetic.read_plan()).encode()
    service = FeatureServiceRef(name=feature_definitions.SERVICE, digest=digest_bytes(plan))
    store = context.ports.artifacts
    manifest = ReleaseManifest(
        product=PRODUCT,
        model=ModelRef(name=PRODUCT, version=version[0], run_id=version[1], format="onnx"),
        feature_service=service,
        contracts=(),
        data=(),
        code=CodeRef(commit="0" * 40, dirty=True),
        artifacts={"model.onnx": store.put_file(Path(path)), "read_plan.json": store.put_bytes(plan)},
        verdicts=(Verdict(gate="chaos", passed=True, observed=None, bound=None, reason="made for a test"),),
        created_at=datetime.now(UTC).isoformat(),
        pipeline_run=f"chaos-{seed}",
    )
    return context.ports.ledger.register_release(manifest, "pipeline")


def make_release(context: PipelineContext[Platform], seed: int) -> str:
    """The pipeline: train, log, register."""
    path = train(context, seed)
    return register(context, path, log_model(context, path), seed)


def run_pipeline(environment, log, seed, count=10**9):
    """One run after the other; each acknowledges its release."""
    become(environment, log)
    dice = random.Random(seed)
    platform = Platform.from_settings()
    for _ in range(count):
        result = platform.runner(PRODUCT, inline=True).run(make_release, {"seed": dice.getrandbits(31)})
        acknowledge(platform.settings, op="release", digest=result.output)
        time.sleep(0.2)


@step(version="1", cache=False)
def grow(context: PipelineContext[Platform]) -> int:
    """More memory than there is."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
    return len(np.ones((1 << 14, 1 << 14)))


def make_too_much(context: PipelineContext[Platform], seed: int) -> str:
    """The pipeline, with a step that runs out of memory in the middle."""
    path = train(context, seed)
    grow(context)
    return register(context, path, log_model(context, path), seed)


def run_starving_pipeline(environment, log, seed):
    """One run that runs out of memory."""
    become(environment, log)
    Platform.from_settings().runner(PRODUCT, inline=True).run(make_too_much, {"seed": seed})


def run_operator(environment, log, op, actor, seed):
    """One command of one person; says what came of it."""
    become(environment, log)
    platform = Platform.from_settings()
    ledger, dice = platform.ledger, random.Random(seed)
    told = {"op": op, "actor": actor}
    try:
        told |= decide(platform, ledger, dice, op, actor)
        acknowledge(platform.settings, **told, outcome="done")
    except (Conflict, NotFound, RefusedByPolicy) as refusal:
        acknowledge(platform.settings, **told, outcome="refused", why=str(refusal))
    except PlinthError as error:
        acknowledge(platform.settings, **told, outcome="unknown", why=str(error))


def decide(platform, ledger, dice, op, actor):
    """Do it; what the caller is told."""
    reason = {"actor": actor, "reason": "chaos"}
    if op in {"start", "promote"}:
        serving = ledger.current(PRODUCT)
        choices = [record.digest for record in ledger.releases(PRODUCT)[:20] if record.digest != serving.digest]
        digest = dice.choice(choices)
        if op == "promote":
            change = release.promote(ledger, platform.registry, PRODUCT, digest, **reason)
            return {"digest": digest, "generation": change.serving.generation}
        policy = policy_digest(platform.products.get(PRODUCT).spec)
        rollout = Rollouts(ledger).start(
            PRODUCT, digest, PLAN, policy=policy, expected_generation=serving.generation, **reason
        )
        return {"digest": digest, "generation": rollout.generation, "rollout": rollout.id}
    if op == "rollback":
        done = commands.rollback(ledger, platform.registry, PRODUCT, **reason)
        return {"digest": done.serving.digest, "generation": done.serving.generation}
    rollout = {"pause": commands.pause, "resume": commands.resume, "abort": commands.abort}[op](
        ledger, PRODUCT, **reason
    )
    return {"rollout": rollout.id, "phase": rollout.state.phase}


# The world -----------------------------------------------------------------------------------------------------------


class Being:
    """One process of the world that is started again whenever it ends, each time with another fate."""

    def __init__(self, world, name, target, arguments=(), failpoints=()):
        self.world, self.name, self.target, self.arguments = world, name, target, arguments
        self.role = name.partition("-")[0]
        self.failpoints = failpoints or FAILPOINTS[self.role]
        self.lives = 0
        self.process = None
        self.fate, self.until = "", float("inf")

    def born(self, *, calm, failpoint=""):
        dice = random.Random(f"{self.world.seed}/{self.name}/{self.lives}")
        self.lives += 1
        self.fate, self.until = "", float("inf")
        low, high = LIVES[self.role]
        if failpoint:
            self.fate = failpoint
        elif not calm:
            self.fate = dice.choice(self.failpoints) if dice.random() < PLANNED[self.role] else "random"
            self.until = time.monotonic() + (max(high, 3.0) if self.fate != "random" else dice.uniform(low, high))
        arguments = [dice.getrandbits(31) if item is SEED else item for item in self.arguments]
        self.process = self.world.start(self.target, arguments, self.name, self.fate if self.fate != "random" else "")

    def doom(self):
        """Give one that was born calm a random end."""
        dice = random.Random(f"{self.world.seed}/{self.name}/{self.lives}/doom")
        self.fate, self.until = "random", time.monotonic() + dice.uniform(*LIVES[self.role])

    def reap(self, kills):
        """Count its end, if it has ended; kill it when its time has come. Returns whether it lives."""
        if self.process.exitcode is None and time.monotonic() >= self.until:
            self.process.kill()
            self.process.join()
            if self.fate != "random":
                self.fate += " (not reached)"
        code = self.process.exitcode
        if code is None:
            return True
        if code == -signal.SIGKILL:
            kills[self.role, self.fate] += 1
        elif self.role != "operator":
            raise AssertionError(f"{self.name} ended by itself with {code}: {self.world.log(self.name)[-3000:]}")
        return False


SEED = object()


class World:
    """A state folder with everything that runs on it."""

    def __init__(self, folder, url, seed):
        self.seed, self.dice = seed, random.Random(seed)
        self.folder, self.port = folder, synthetic.free_port()
        (folder / "logs").mkdir(parents=True)
        self.settings = Settings(
            state=folder,
            home=synthetic.HOME,
            ledger_url=url,
            service_ports={PRODUCT: self.port},
            mlflow_port=synthetic.free_port(),
            traces=False,
        )
        self.environment = {
            "PLINTH_STATE": str(folder), "PLINTH_HOME": str(synthetic.HOME), "PLINTH_TRACES": "false",
            "PLINTH_LEDGER_URL": self.settings.database_url, "PLINTH_MLFLOW_PORT": str(self.settings.mlflow_port),
            "PLINTH_SERVICE_PORTS": json.dumps({PRODUCT: self.port}),
            "PLINTH_CONTROLLER_PORT": str(synthetic.free_port()),
        }  # fmt: skip
        self.platform = Platform.from_settings(self.settings)
        self.ledger = self.platform.ledger
        self.rollouts = Rollouts(self.ledger)
        self.context = fork_context(PRELOAD)
        self.kills, self.answers, self.convergence, self.operators = Counter(), Counter(), [], []
        self.decisions = 0
        self.overrides = {}  # environment by process
        self.body = json.dumps({"flights": [synthetic.as_json(synthetic.flights(1)[0])]})
        self.beings = [
            Being(self, "controller-1", run_controller),
            Being(self, "controller-2", run_controller),
            Being(self, "service", run_service, (self.port,)),
            Being(self, "pipeline", run_pipeline, (SEED,)),
        ]

    @property
    def killed(self):
        """Kills of controllers, service and pipelines. Commands are killed, too, and counted apart."""
        return sum(count for (role, _), count in self.kills.items() if role != "operator")

    def start(self, target, arguments, name, failpoint=""):
        environment = {**self.environment, **self.overrides.get(name, {})}
        environment |= {"PLINTH_FAILPOINT": failpoint if not failpoint or ":" in failpoint else f"{failpoint}:kill"}
        log = str(self.folder / "logs" / f"{name}.log")
        process = self.context.Process(target=target, args=(environment, log, *arguments), daemon=True)
        process.start()
        return process

    def log(self, name):
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def being(self, name):
        """One of the processes that are started again when they end."""
        return next(being for being in self.beings if being.name == name)

    def set_up(self, registry=None):
        """The online store, three releases and a first promotion; `registry` is an empty MLflow database."""
        if registry is not None:
            (self.folder / "mlflow").mkdir()
            shutil.copy(registry, self.folder / "mlflow" / "mlflow.db")
        synthetic.write_online_store(self.settings.product_dir(PRODUCT) / "online" / "online.db", synthetic.flights(5))
        process = self.start(run_pipeline, (self.seed, 3), "setup")
        process.join(PATIENCE)
        assert process.exitcode == 0, self.log("setup")
        first = self.acknowledged()[0]["digest"]
        self.ledger.promote(PRODUCT, first, expected_generation=0, actor="setup", reason="begin")
        for being in self.beings:
            being.born(calm=True)
        self.converge()

    # Chaos ----------------------------------------------------------------------------------------------------------

    def batch(self, kills):
        """So many kills, with decisions in between; then calm, convergence, and a look at everything."""
        wanted = self.killed + kills
        for being in self.beings:
            if being.name == "controller-1":  # the one that leads may go on for a while, so that rollouts get on
                being.doom()
                continue
            being.process.kill()  # the calm ones make room for others with a fate; these kills are not counted
            being.process.join()
            being.born(calm=False)
        next_decision = 0.0
        while self.killed < wanted:
            for being in self.beings:
                if not being.reap(self.kills):
                    being.born(calm=False)
            self.operators = [operator for operator in self.operators if operator.reap(self.kills)]
            if time.monotonic() >= next_decision and len(self.operators) < 3:
                next_decision = time.monotonic() + self.dice.uniform(0.0, 0.4)
                self.decide(calm=False)
            self.ask()
            time.sleep(0.02)
        for being in self.beings:
            being.process.kill()
            being.process.join()
            if being.process.exitcode == -signal.SIGKILL:
                self.kills[being.role, "random"] += 1
            being.born(calm=True)
        self.converge()
        self.look()

    def decide(self, *, calm, op=None, failpoint=""):
        if op is None:
            running = self.rollouts.active(PRODUCT) is not None
            weights = (1, 1, 1, 1, 4, 4) if running else (10, 3, 2, 1, 1, 1)
            op = self.dice.choices(["start", "promote", "rollback", "abort", "pause", "resume"], weights)[0]
        self.decisions += 1
        operator = Being(self, "operator", run_operator, (op, f"person-{self.decisions}", SEED), COMMANDS[op])
        operator.lives = self.decisions
        if not calm and self.dice.random() < 0.5:  # the other half decides undisturbed
            operator.born(calm=False)
        else:
            operator.born(calm=True, failpoint=failpoint)
        self.operators.append(operator)
        return operator

    def command(self, op, failpoint=""):
        """Have somebody do something now: what they were told, or None when they were killed at the failpoint."""
        operator = self.decide(calm=True, op=op, failpoint=failpoint)
        operator.process.join(PATIENCE)
        self.operators.remove(operator)
        told = [item for item in self.acknowledged() if item.get("actor") == f"person-{self.decisions}"]
        return told[-1] if told else None

    def ask(self):
        """One prediction, if the service is up. What answers has to be a release that was to answer."""
        try:
            status, answer = self.request("POST", "/predict", self.body)
        except (OSError, http.client.HTTPException):
            self.answers["no connection"] += 1
            return None
        self.answers[status] += 1
        if status == 200:
            self.answers["", answer["release"]] += 1
            return answer["release"]
        assert status == 503, (status, answer)  # starting, or stopping
        return None

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    # Calm -----------------------------------------------------------------------------------------------------------

    def converge(self):
        """Wait until everything follows the ledger; paused rollouts are resumed, as somebody would."""
        started = time.monotonic()
        lag = ["not looked at"]
        while lag:
            if time.monotonic() - started > PATIENCE:
                tails = "\n".join(f"--- {being.name}\n{self.log(being.name)[-1500:]}" for being in self.beings)
                raise AssertionError(f"not converged after {PATIENCE:.0f} s: {lag}\n{tails}")
            self.operators = [operator for operator in self.operators if operator.reap(self.kills)]
            for being in self.beings:
                assert being.reap(self.kills), f"{being.name} was killed by nobody: {self.log(being.name)[-3000:]}"
            running = self.rollouts.active(PRODUCT)
            if running is not None and running.state.phase == "paused" and not self.operators:
                self.decide(calm=True, op="resume")
            time.sleep(0.05)
            lag = self.lag()
        self.convergence.append(time.monotonic() - started)

    def lag(self):
        """What does not follow the ledger yet."""
        found = []
        if self.operators:
            found.append("commands at work")
        found += [f"rollout {item.id} is {item.state.phase}: {item.reason}" for item in self.rollouts.unfinished()]
        found += [f"effect of generation {effect.generation}" for effect in self.ledger.pending_effects(PRODUCT)]
        route = self.rollouts.route(PRODUCT)
        try:
            _, ready = self.request("GET", "/readyz")
            seen = ready.get("route") or {}
            if (seen.get("generation"), seen.get("serving")) != (route.generation, route.serving):
                found.append(f"the service is at {seen}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            found.append(f"the service does not answer: {error!r}")
        version = self.ledger.release(route.serving).manifest.model.version
        aliases = self.aliases()
        if aliases.get("serving") != version:
            found.append(f"aliases are {aliases}, and version {version} serves")
        return found

    def aliases(self):
        """What MLflow's database says, read without MLflow.

        Not read-only: who was killed in the middle of a write left a journal, which the next reader has to roll back.
        """
        path = self.settings.state_dir / "mlflow" / "mlflow.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=10)) as store:
            rows = store.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", (PRODUCT,))
            return {alias: str(version) for alias, version in rows}

    def acknowledged(self):
        path = self.folder / "acknowledged"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def look(self):
        """Every invariant, and every acknowledgement. Raises AssertionError with what it found."""
        findings = fsck.check(self.platform)
        assert {finding.invariant for finding in findings} >= set(fsck.INVARIANTS), "something was not looked at"
        found = [f"{item.invariant}: {item.subject}: {item.what}" for item in fsck.violations(findings)]
        found += self.look_at_effects() + self.look_at_acknowledgements()
        found += self.look_at_answers()
        if self.ask() != self.ledger.current(PRODUCT).digest:
            found.append("what answers is not what serves")
        assert not found, "\n".join(found)

    def look_at_effects(self):
        done = Counter(
            entry.payload["generation"] for entry in self.ledger.audit() if entry.action.startswith("effect.")
        )
        return [
            f"the effect of generation {number} was done {times} times" for number, times in done.items() if times > 1
        ]

    def look_at_acknowledgements(self):
        acknowledged = self.acknowledged()  # first: the pipeline goes on registering
        audit, history = self.ledger.audit(), {entry.generation: entry for entry in self.ledger.history(PRODUCT)}
        by_actor = {}
        for entry in audit:
            by_actor.setdefault(entry.actor, []).append(entry)
        releases = {record.digest for record in self.ledger.releases(PRODUCT)}
        rollouts = {rollout.id: rollout for rollout in self.rollouts.of(PRODUCT)}
        found = []
        for told in acknowledged:
            op, mine = told["op"], by_actor.get(told.get("actor"), [])
            moved = [
                entry for entry in mine if entry.action in {"rollout.start", "release.promote", "release.rollback"}
            ]
            if op == "release":
                good = told["digest"] in releases
            elif told["outcome"] == "refused":
                good = not moved  # refused, and nothing done
            elif told["outcome"] == "unknown":
                good = len(moved) <= 1
            elif op in {"start", "promote", "rollback"}:
                entry = history.get(told["generation"])
                serves = rollouts[told["rollout"]].serving if op == "start" else told["digest"]
                good = (
                    entry is not None and entry.digest == serves and (entry.actor == told["actor"] or op == "rollback")
                )
            elif op == "abort":
                good = rollouts[told["rollout"]].state.phase in {"aborting", "rolled-back"}
            else:
                good = any(entry.payload.get("rollout") == told["rollout"] for entry in mine) or op == "pause"
            if not good:
                found.append(f"acknowledged, and not so: {told}")
        return found

    def look_at_answers(self):
        meant = {entry.digest for entry in self.ledger.history(PRODUCT)}
        meant |= {rollout.candidate for rollout in self.rollouts.of(PRODUCT)}
        answered = {key[1] for key in self.answers if isinstance(key, tuple)}
        return [f"release {digest[:12]} answered, and was never to" for digest in answered - meant]

    def end(self):
        for being in [*self.beings, *self.operators]:
            if being.process is not None:
                being.process.kill()
                being.process.join(PATIENCE)
        self.ledger.close()

    def summary(self):
        told = Counter((item["op"], item.get("outcome", "done")) for item in self.acknowledged())
        by_role, by_fate = Counter(), Counter()
        for (role, fate), count in self.kills.items():
            by_role[role] += count
            by_fate[fate if "(" not in fate else "random"] += count
        phases = Counter(item.state.phase for item in self.rollouts.of(PRODUCT))
        assert set(phases) <= ENDED
        times = sorted(self.convergence)
        return {
            "kills": self.killed, "by_role": dict(by_role), "by_place": dict(by_fate),
            "decisions": {f"{op} {outcome}": count for (op, outcome), count in sorted(told.items())},
            "rollouts": dict(phases), "generations": self.ledger.current(PRODUCT).generation,
            "answers": {str(key): count for key, count in self.answers.items() if not isinstance(key, tuple)},
            "convergence_seconds": {"median": round(times[len(times) // 2], 2), "max": round(times[-1], 2)},
        }  # fmt: skip


def run(folder, url, seed, kills):
    """Chaos in `folder`. Returns the summary; raises AssertionError at the first thing that is wrong."""
    world = World(folder, url, seed)
    try:
        world.set_up()
        while world.killed < kills:
            world.batch(min(BATCH, kills - world.killed))
        return world.summary()
    finally:
        world.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--database", default="both", help="sqlite, postgresql (one is started), or both: half of it each"
    )
    options = parser.parse_args()
    print(
        f"seed {options.seed}: to play it again, make chaos SEED={options.seed} KILLS={options.kills} "
        f"DATABASE={options.database}",
        flush=True,
    )
    names = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    for name in names:
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plinth-chaos-"))) / "state"
            url = None
            if name == "postgresql":
                server = PostgresServer()
                stack.callback(server.stop)
                url = stack.enter_context(server.database())
            summary = run(folder, url, options.seed, options.kills // len(names))
        print(json.dumps({"database": name, **summary, "seconds": round(time.monotonic() - started, 1)}), flush=True)
