"""Write or check the hashed, address-free requirement files in `locks/`.

`uv.lock` writes down the address of every file, so it would bind a fork to one package index. These files hold
names, versions and sha256 digests only: they install from any mirror.

    python tools/lock.py            compile, upgrading what may be upgraded
    python tools/lock.py --check    fail when a lock no longer matches its pyproject.toml
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
MEMBERS = sorted(path.parent.relative_to(ROOT) for path in ROOT.glob("services/*/pyproject.toml"))
WEIGHTS = "locks/weights.txt"
# What images hold that are of no single product: the extras of the platform that each is compiled from.
IMAGES = {
    "controller": ["--extra", "controller"],
    "mlflow": ["--extra", "auth"],
    "prefect": ["--extra", "pipelines"],
}
# Tools that build images and list what is in them. They are in none of them, so locks/dev.txt has no say in their pins.
TOOLS = ["build", "sbom"]
FREE = {"locks/dev.txt", WEIGHTS, *(f"locks/{tool}.txt" for tool in TOOLS)}
COMMON = [
    "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-annotate", "--no-header",
    "--no-emit-index-url", "--no-emit-find-links", "--python-version", "3.11",
]  # fmt: skip


def targets() -> dict[str, list[str]]:
    """Each lock file with the sources and options it is compiled from: one for development, one an image."""
    own = [flag for name in ["plinth", *(member.name for member in MEMBERS)] for flag in ("--no-emit-package", name)]
    everything = ["pyproject.toml", "platform/pyproject.toml", *(f"{member}/pyproject.toml" for member in MEMBERS)]
    locks = {"locks/dev.txt": ["--all-extras", "--group", "dev", *everything, *own]}
    for member in MEMBERS:
        locks[f"locks/{member.name}.txt"] = [f"{member}/pyproject.toml", *own]
    for image, extras in IMAGES.items():
        locks[f"locks/{image}.txt"] = ["platform/pyproject.toml", *extras, *own]
    # The worker carries out every product's pipelines.
    pipelines = ["--extra", "pipeline", "--extra", "servers"]
    locks["locks/pipelines.txt"] = [
        "platform/pyproject.toml",
        *(f"{m}/pyproject.toml" for m in MEMBERS),
        *pipelines,
        *own,
    ]
    for tool in TOOLS:
        locks[f"locks/{tool}.txt"] = [f"locks/{tool}.in"]
    # Wanted are the weights in it and not what its code needs (torch): installed with --no-deps, locked the same way.
    locks[WEIGHTS] = ["locks/weights.in", "--no-deps"]
    return locks


def compile_lock(arguments: list[str], output: Path, *, upgrade: bool) -> None:
    """Run uv's resolver; existing pins in `output` are kept unless `upgrade`."""
    uv = os.environ.get("UV", "uv")
    flags = ["--upgrade"] if upgrade else []
    subprocess.run(
        [uv, *COMMON, *flags, *arguments, "-o", str(output)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


def problems_of(name: str, text: str) -> list[str]:
    """What is wrong with a lock's text: an address, or a requirement without a hash."""
    problems = [f"{name}: names an address: {line}" for line in text.splitlines() if re.search(r"://|^-", line)]
    blocks = re.split(r"\n(?=\S)", text)
    problems += [
        f"{name}: no hash: {block.splitlines()[0]}" for block in blocks if block.strip() and "--hash" not in block
    ]
    return problems


def pins(text: str) -> dict[str, list[str]]:
    """Pinned versions by normalised name (several where markers choose between them)."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE):
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), []).append(version)
    return found


def declared() -> list[tuple[str, Requirement]]:
    """Every requirement the pyproject files state, with the lock that has to satisfy it."""
    found: list[tuple[str, Requirement]] = []
    for path in [
        Path("pyproject.toml"),
        Path("platform/pyproject.toml"),
        *(member / "pyproject.toml" for member in MEMBERS),
    ]:
        data = tomllib.loads((ROOT / path).read_text())
        project = data["project"]
        lists = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
        lists += data.get("dependency-groups", {}).values()
        found += [("locks/dev.txt", Requirement(line)) for lines in lists for line in lines]
    return [
        (lock, requirement)
        for lock, requirement in found
        if requirement.name not in {"plinth", *(m.name for m in MEMBERS)}
    ]


def check() -> list[str]:
    """Problems of the locks, without asking any index: addresses, missing hashes, pins outside the stated bounds."""
    problems: list[str] = []
    texts: dict[str, str] = {}
    for name in targets():
        path = ROOT / name
        if not path.is_file():
            problems.append(f"{name}: missing")
            continue
        texts[name] = path.read_text()
        problems += problems_of(name, texts[name])
    locked = {name: pins(text) for name, text in texts.items()}
    for name, requirement in declared():
        key = re.sub(r"[-_.]+", "-", requirement.name).lower()
        versions = locked.get(name, {}).get(key, [])
        if not any(requirement.specifier.contains(version, prereleases=True) for version in versions):
            problems.append(f"{name}: {requirement} is not satisfied (locked: {', '.join(versions) or 'nothing'})")
    for name, found in locked.items():
        for package, versions in found.items():
            tested = set(locked.get("locks/dev.txt", {}).get(package, []))
            if name not in FREE and not set(versions) <= tested:
                problems.append(f"{name}: {package} {versions} differs from locks/dev.txt, which is what the tests run")
    return problems


def resolver_disagrees() -> list[str]:
    """Locks that uv's resolver would change although it may keep every pin. Needs a package index."""
    changed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in targets().items():
            copy = Path(folder) / Path(name).name
            copy.write_text((ROOT / name).read_text())
            try:
                compile_lock(arguments, copy, upgrade=False)
            except (OSError, subprocess.CalledProcessError) as error:
                changed.append(f"{name}: cannot be checked, the resolver failed: {error}")
                continue
            # Versions, not hashes: a file added to a version that is locked changes nothing that gets installed here.
            if pins(copy.read_text()) != pins((ROOT / name).read_text()):
                changed.append(f"{name}: does not match the pyproject files; run `make lock`")
    return changed


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a lock is out of date")
    parser.add_argument("--no-upgrade", action="store_true", help="keep the pins that still fit")
    options = parser.parse_args()
    if options.check:
        problems = check() or resolver_disagrees()
        print("\n".join(problems) or f"{len(targets())} locks match their pyproject files")
        return 1 if problems else 0
    dev = ROOT / "locks/dev.txt"
    for name, arguments in targets().items():
        output = ROOT / name
        output.parent.mkdir(exist_ok=True)
        if name in FREE:
            compile_lock(arguments, output, upgrade=not options.no_upgrade)
        else:
            # A service gets exactly the versions the tests run with.
            compile_lock(["--constraint", str(dev.relative_to(ROOT)), *arguments], output, upgrade=True)
        print(f"wrote {name}")
    problems = check()
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
