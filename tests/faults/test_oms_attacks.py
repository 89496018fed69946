"""Attacks on a model.sig, which covers files and not the artifact that carries them.

Line 11 of the list in docs/trust.md. The model is signed, packed, pushed, tampered with in the
registry, pulled, and then held against its signature.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ocimodel
from ocimodel.errors import InputError, NotFoundError, OcimodelError, PolicyError
from ocimodel.ops.verify import DirectoryResult, verify_directory
from ocimodel.spec.base64text import decode_base64
from tests.signing import ONE, Scene, bundle_over, compact
from tests.trees import patient, write_tree

pytestmark = ONE
FILES = {"a/w.bin": b"weights", "config.json": b"{}", "run.sh": b"#!/bin/sh\n"}
Attack = Callable[[Path], object]


def model(scene: Scene) -> Path:
    """Signed in place."""
    directory = write_tree(scene.folder / "model", FILES)
    ocimodel.sign(directory, key=scene.private(), format="oms")
    return directory


def delivered(scene: Scene, directory: Path) -> Path:
    """What comes out of the registry when whoever may push has had his way with it."""
    ocimodel.push(directory, scene.reference, force_tag=True, client=patient())
    target = scene.folder / "pulled"
    ocimodel.pull(scene.reference, target, client=patient())
    return target


def check(scene: Scene, directory: Path, by: str = "release") -> DirectoryResult:
    return verify_directory(directory, key=scene.key(by))


def restate(directory: Path, change: Callable[[dict[str, Any]], object], by: str) -> None:
    """Another statement in model.sig, with a true signature by `by`."""
    path = directory / "model.sig"
    envelope = json.loads(path.read_bytes())["dsseEnvelope"]
    statement = json.loads(decode_base64(envelope["payload"], "payload"))
    change(statement)
    path.write_bytes(bundle_over(compact(statement), by))


def test_11_the_honest_model(scene: Scene) -> None:
    directory = delivered(scene, model(scene))
    found = check(scene, directory)
    assert (found.problems, found.uncovered, found.n_files) == ((), (), 3)
    with pytest.raises(PolicyError, match="not signed by this key"):
        check(scene, directory, "other")


ATTACKS: dict[str, tuple[Attack, str]] = {
    "changed file": (lambda d: (d / "config.json").write_bytes(b"[]"), "config.json: changed"),
    "lost file": (lambda d: (d / "run.sh").unlink(), "run.sh: missing"),
    "added file": (lambda d: (d / "extra.py").write_bytes(b""), "extra.py: not signed"),
    "renamed file": (
        lambda d: (d / "config.json").rename(d / "other.json"),
        "config.json: missing",
    ),
    # the root digest is of digests alone: it stays when names change places
    "swapped names": (
        lambda d: [
            (d / "config.json").write_bytes(FILES["run.sh"]),
            (d / "run.sh").write_bytes(FILES["config.json"]),
        ],
        "config.json: changed",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_11_files_that_differ(scene: Scene, attack: str) -> None:
    directory = model(scene)
    change, problem = ATTACKS[attack]
    change(directory)
    assert problem in check(scene, delivered(scene, directory)).problems


def test_11_a_signature_that_is_gone_or_somebody_elses(scene: Scene) -> None:
    directory = model(scene)
    restate(directory, lambda statement: None, "other")
    with pytest.raises(PolicyError):
        check(scene, delivered(scene, directory))
    (directory / "model.sig").unlink()
    (scene.folder / "pulled" / "model.sig").unlink()
    with pytest.raises(NotFoundError):
        check(scene, delivered(scene, directory))


def resources(change: Callable[[list[dict[str, Any]]], object]) -> Callable[..., object]:
    return lambda statement: change(statement["predicate"]["resources"])


STATEMENTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "duplicate names": resources(lambda r: r.append(dict(r[0]))),
    "the same name in two ways": resources(lambda r: r.append({**r[1], "name": "./config.json"})),
    "a name that leads out": resources(lambda r: r[1].update(name="../config.json")),
    "an absolute name": resources(lambda r: r[1].update(name="/etc/passwd")),
    "names of one file": resources(lambda r: r.append({**r[1], "name": "CONFIG.json"})),
    "upper-case hex": resources(lambda r: r[1].update(digest=r[1]["digest"].upper())),
    "another hash": resources(lambda r: r[1].update(algorithm="md5")),
    "no files": resources(lambda r: r.clear()),
    "a root of other files": lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
    "a file that is ignored too": lambda s: s["predicate"]["serialization"]["ignore_paths"].append(
        "config.json"
    ),
    "two subjects": lambda s: s["subject"].append(s["subject"][0]),
    "another predicate": lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"),
    "parts of files": lambda s: s["predicate"]["serialization"].update(method="shards"),
}


@pytest.mark.parametrize("game", STATEMENTS)
def test_11_statements_that_the_right_key_signed(scene: Scene, game: str) -> None:
    directory = model(scene)
    restate(directory, lambda statement: None, "release")
    assert not check(scene, directory).problems
    restate(directory, STATEMENTS[game], "release")
    with pytest.raises(InputError):
        check(scene, delivered(scene, directory))


def test_11_what_the_signature_ignores_is_named(scene: Scene) -> None:
    """Whoever signs may leave paths out; nobody vouches for what stands there then."""
    directory = model(scene)
    write_tree(directory, {"cache/x.py": b"import os"})
    ignore = "ignore_paths"
    restate(directory, lambda s: s["predicate"]["serialization"][ignore].append("cache"), "release")
    found = check(scene, delivered(scene, directory))
    assert (found.problems, found.uncovered) == ((), ("cache/x.py",))


def test_11_an_executable_bit_is_not_covered_and_a_link_is_no_file(scene: Scene) -> None:
    directory = delivered(scene, model(scene))
    (directory / "config.json").chmod(0o755)
    assert not check(scene, directory).problems
    (directory / "config.json").rename(scene.folder / "elsewhere")
    (directory / "config.json").symlink_to(scene.folder / "elsewhere")
    try:
        problems = check(scene, directory).problems
    except OcimodelError as error:
        assert error.exit_code in (6, 10)
    else:
        assert any("config.json" in problem for problem in problems)


def test_11_a_model_sig_signs_no_artifact(scene: Scene) -> None:
    """Neither as it is nor in a referrer: it is about files, whatever the digest in it is."""
    directory = model(scene)
    ocimodel.push(directory, scene.reference, client=patient())
    root = scene.known("v1")
    # with a line break: by its digest it is a file of the model, which nobody may ask for
    scene.attach((directory / "model.sig").read_bytes() + b"\n", root)
    scene.refused("signature by")

    def about(statement: dict[str, Any]) -> None:
        statement["subject"][0]["digest"]["sha256"] = root.digest.removeprefix("sha256:")

    restate(directory, about, "release")
    scene.attach((directory / "model.sig").read_bytes(), root)
    scene.refused("signature by")
    scene.sign()
    scene.pull()
