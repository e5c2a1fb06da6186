"""What Prometheus, the collector, Tempo and Loki are configured with fits compose.yaml and each other."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from plinth.core.manifests import parse_product

ROOT = Path(__file__).parents[3]
INFRA = ROOT / "infra"


def document(path):
    return yaml.safe_load((INFRA / path).read_text(encoding="utf-8"))


def compose():
    services = {}
    for path in sorted((INFRA / "compose").glob("*.yaml")):
        services |= document(path).get("services", {})
    return services


def targets():
    """(job, host, port) of everything that is scraped."""
    for job in document("prometheus/prometheus.yml")["scrape_configs"]:
        for group in job.get("static_configs", ()):
            yield from ((job["job_name"], *target.split(":")) for target in group["targets"])
        for group in job.get("dns_sd_configs", ()):
            yield from ((job["job_name"], name, str(group["port"])) for name in group["names"])
    for line in document("prometheus/products.yml"):
        yield from (("products", *target.split(":")) for target in line["targets"])


def about(name):
    """All that is written of a service: its part of compose.yaml, and the files that it mounts."""
    service = compose()[name]
    text = yaml.safe_dump(service)
    for found in re.findall(r"\.\./?(\w[\w/]*):|\./([\w.]+):", text):
        path = INFRA / found[0] if found[0] else INFRA / "compose" / found[1]
        files = [path] if path.is_file() else path.rglob("*.y*ml")
        text += "".join(file.read_text(encoding="utf-8") for file in files)
    return text


@pytest.mark.parametrize(("job", "host", "port"), list(targets()))
def test_every_target_is_a_service_and_a_port_of_compose(job, host, port):
    if host == "localhost":
        host = job
    assert host in compose()
    assert re.search(rf"(?<!\d){port}(?!\d)", about(host)), f"nothing of {host} says port {port}"


def test_every_service_of_a_product_is_scraped_at_its_port():
    scraped = {(host, port) for job, host, port in targets() if job == "products"}
    for path in ROOT.glob("services/*/product.yaml"):
        product = parse_product(path.read_text(encoding="utf-8"), str(path))
        assert (product.name, str(product.serving.port)) in scraped


def test_what_a_profile_may_leave_out_is_no_static_target():
    optional = {name for name, service in compose().items() if service.get("profiles")} | {"qdrant"}
    static = {
        target.split(":")[0]
        for job in document("prometheus/prometheus.yml")["scrape_configs"]
        for group in job.get("static_configs", ())
        for target in group["targets"]
    }
    assert not optional & static


def test_whoever_asks_for_the_token_is_shown_it_and_it_is_the_file_that_compose_writes():
    jobs = {job["job_name"]: job for job in document("prometheus/prometheus.yml")["scrape_configs"]}
    for name in ("products", "controller", "qdrant"):
        file = jobs[name]["authorization"]["credentials_file"]
        assert f">{file}" in "".join(compose()["prometheus"]["command"])


def test_the_controller_knows_the_name_it_is_scraped_by():
    assert compose()["controller"]["environment"]["PLINTH_ALLOWED_HOSTS"] == '["controller"]'


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_the_configuration_and_its_rules_right(tmp_path):
    shutil.copytree(INFRA / "prometheus", tmp_path / "prometheus")
    config = tmp_path / "prometheus" / "prometheus.yml"
    token = tmp_path / "scrape_token"
    token.write_text("t")
    config.write_text(re.sub("/tmp/scrape_token", str(token), config.read_text()))  # noqa: S108  (a path of the container)
    done = subprocess.run(["promtool", "check", "config", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_collector_sends_to_services_and_ports_that_listen():
    collector = document("otel/collector.yaml")
    used = {name for pipeline in collector["service"]["pipelines"].values() for name in pipeline["exporters"]}
    assert used == set(collector["exporters"])
    addresses = " ".join(
        str(exporter.get("endpoint", exporter.get("traces_endpoint"))) for exporter in collector["exporters"].values()
    )
    for host, port in re.findall(r"(\w+):(\d+)", addresses):
        assert host in compose()
        assert port in about(host)
    for pipeline in collector["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"
        assert set(pipeline["receivers"]) <= set(collector["receivers"])


def test_the_collectors_limit_is_below_that_of_its_container():
    limit = document("otel/collector.yaml")["processors"]["memory_limiter"]["limit_mib"]
    assert limit < int(compose()["collector"]["mem_limit"].removesuffix("m"))


@pytest.mark.parametrize(
    ("service", "file", "port"), [("tempo", "tempo/tempo.yaml", 3200), ("loki", "loki/loki.yaml", 3100)]
)
def test_tempo_and_loki_keep_for_a_week_tell_nobody_and_write_to_their_volume(service, file, port):
    config = document(file)
    assert config["server"]["http_listen_port"] == port
    assert not config.get("usage_report", config.get("analytics"))["reporting_enabled"]
    volume = next(entry for entry in compose()[service]["volumes"] if entry.startswith(f"{service}:")).split(":")[1]
    paths = re.findall(r"path: (/\S+?)[}\s]|_directory: (/\S+)", (INFRA / file).read_text())
    assert paths
    assert all("".join(found).startswith(volume) for found in paths)
    text = (INFRA / file).read_text()
    assert "168h" in text
