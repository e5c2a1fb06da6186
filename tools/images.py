"""Record the digest of every image that is pinned by its tag, in `infra/images.lock`.

Digests can only be learned where a registry can be asked, so the file is there once somebody has run this on such a
machine, and not before.

    python tools/images.py            ask for every digest and write the file
    python tools/images.py --check    fail when a pinned image is not recorded, or its tag is another image by now
    python tools/images.py --list     print the pinned images, without asking anybody
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "infra" / "images.lock"
DOCKERFILE = ROOT / "infra" / "images" / "Dockerfile"


def pinned() -> list[str]:
    """Every image of others: those of the compose parts, and what our own start from."""
    found = set(re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE))
    for part in (ROOT / "infra" / "compose").glob("*.yaml"):
        for service in (yaml.safe_load(part.read_text()).get("services") or {}).values():
            image = service.get("image", "")
            # Our own have no registry: they are built here, from what locks/ and the base pin.
            if image and not image.startswith("plinth-"):
                found.add(image)
    return sorted(found)


def digest_of(image: str) -> str:
    """The digest of the index that a tag names now: one for every processor.

    Raises:
        RuntimeError: No registry says so.
    """
    command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{json .Manifest.Digest}}", image]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{image}: {error}") from error
    digest = done.stdout.strip().strip('"')
    if done.returncode or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        said = done.stderr.strip().splitlines() or ["no digest in the answer"]
        raise RuntimeError(f"{image}: {said[-1]}")
    return digest


def recorded() -> dict[str, str]:
    """What the file says; nothing where there is none."""
    return dict(json.loads(LOCK.read_text())["images"]) if LOCK.is_file() else {}


def ask(images: list[str]) -> tuple[dict[str, str], list[str]]:
    """The digests, and what could not be learned."""
    found, problems = {}, []
    for image in images:
        try:
            found[image] = digest_of(image)
        except RuntimeError as error:
            problems.append(f"cannot be asked: {error}")
    return found, problems


def check() -> list[str]:
    """What is wrong with the record. That nobody can be asked is a problem too: it is not the same as being right."""
    images, known = pinned(), recorded()
    if not known:
        return [f"{LOCK.relative_to(ROOT)} is not there: run tools/images.py where a registry can be asked"]
    problems = [f"not recorded: {image}" for image in images if image not in known]
    problems += [f"recorded, and pinned nowhere: {image}" for image in known if image not in images]
    found, unknown = ask([image for image in images if image in known])
    changed = [image for image, digest in found.items() if digest != known[image]]
    return problems + unknown + [f"the tag is another image now: {image}" for image in changed]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the record is not true")
    parser.add_argument("--list", action="store_true", help="print the pinned images")
    options = parser.parse_args()
    if options.list:
        print("\n".join(pinned()))
        return 0
    if options.check:
        problems = check()
        print("\n".join(problems) or f"{len(pinned())} images are what infra/images.lock records")
        return 1 if problems else 0
    found, problems = ask(pinned())
    if problems:
        print("\n".join(problems), file=sys.stderr)
        print("nothing is written: a record with gaps looks like a record", file=sys.stderr)
        return 1
    LOCK.write_text(json.dumps({"images": found}, indent=1) + "\n")
    print(f"wrote {LOCK.relative_to(ROOT)}: {len(found)} digests")
    return 0


if __name__ == "__main__":
    sys.exit(main())
