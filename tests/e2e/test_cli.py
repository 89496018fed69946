"""Every verb against a real registry: what it does, what it prints where, and in which shape."""

from __future__ import annotations

import base64
import json
import re
import stat
from pathlib import Path

import pytest

import ocimodel
from ocimodel.errors import NotFoundError
from tests.e2e.conftest import SCHEMAS, Cli
from tests.servers.registry import DockerRegistry
from tests.trees import executables, read_tree

PINNED = re.compile(r"\S+@sha256:[0-9a-f]{64}\n")


def test_push_and_pull_bring_the_same_directory_back(cli: Cli, model: Path, repo: str) -> None:
    pushed = cli("push", model, f"{repo}:v1")
    assert pushed.out.startswith(f"pushed {repo}:v1\ndigest sha256:")
    assert "done: größe 1.txt (6 B)\n" in pushed.err
    pulled = cli("pull", f"{repo}:v1", "-o", "copy")
    assert pulled.out.startswith(f"pulled {repo}:v1 into copy\n")
    assert "0 B here already" in pulled.out
    assert read_tree(cli.cwd / "copy") == read_tree(model)
    assert executables(cli.cwd / "copy") == {"run.sh"}


def test_the_second_time_nothing_moves(cli: Cli, pushed: str, model: Path) -> None:
    again = cli("push", model, pushed, "--json").document
    assert again["bytesPushed"] == 0
    assert again["bytesSkipped"] == again["size"] > 100_000
    first = ocimodel.pull(pushed, cli.cwd / "copy")
    (cli.cwd / "copy" / "mine.txt").touch()
    second = cli("pull", pushed, "-o", "copy", "--json").document
    assert second["bytesFetched"] == 0
    assert second["bytesReused"] == first.bytes_fetched
    assert second["extraFiles"] == ["mine.txt"]
    told = cli("pull", pushed, "-o", "copy").out
    assert "everything was here already, nothing fetched" in told
    assert "not of this model, left alone: mine.txt" in told


def test_quiet_is_one_pinned_line_and_silence_beside_it(cli: Cli, model: Path, repo: str) -> None:
    runs = [
        cli("push", model, f"{repo}:v1", "-q"),
        cli("pack", model, "oci:layout:v1", "-q"),
        cli("pull", "oci:layout:v1", "-o", "copy", "-q"),
        cli("copy", f"{repo}:v1", f"{repo}-2:v1", "-q"),
        cli("inspect", f"{repo}:v1", "-q"),
        cli("tag", f"{repo}:v1", "stable", "-q"),
        cli("rm", f"{repo}:stable", "-q"),
    ]
    for done in runs:
        assert PINNED.fullmatch(done.out)
        assert done.err == ""
    assert len({done.out.partition("@")[2] for done in runs}) == 1


def test_dry_run_writes_nothing_and_says_what_would_be(cli: Cli, model: Path, repo: str) -> None:
    planned = cli("push", model, f"{repo}:v1", "--dry-run", "--json").document
    assert planned["dryRun"] and planned["bytesPushed"] == planned["size"]
    text = cli("push", model, f"{repo}:v1", "--dry-run").out
    assert text.startswith(f"would push {repo}:v1\n")
    assert " to send" in text
    with pytest.raises(NotFoundError):
        ocimodel.ls(repo)


def test_pack_and_push_agree_and_layouts_travel(cli: Cli, model: Path, repo: str) -> None:
    packed = cli("pack", model, "oci:layout:v1", "--json").document
    assert packed["schema"] == "ocimodel.pack/v1"
    assert packed["reference"] == "oci:layout:v1"
    pushed = cli("push", "oci:layout:v1", f"{repo}:v1", "--json").document
    assert pushed["schema"] == "ocimodel.push/v1"
    assert pushed["digest"] == packed["digest"]
    assert pushed["pinned"] == f"{repo}@{packed['digest']}"
    copied = cli("copy", f"{repo}:v1", "oci:other", "--json").document
    assert copied["schema"] == "ocimodel.copy/v1"
    assert copied["reference"] == "oci:other:v1"
    assert copied["manifests"] == [packed["digest"]]
    assert "1 manifest: 0 B sent" in cli("copy", f"{repo}:v1", "oci:other").out
    pulled = cli("pull", "oci:other", "-o", "copy", "--json").document
    assert pulled["digest"] == packed["digest"]
    assert read_tree(cli.cwd / "copy") == read_tree(model)


def test_compat_and_force_tag(cli: Cli, model: Path, pushed: str, repo: str) -> None:
    cli("push", model, pushed, "--compat", code=9)
    moved = cli("push", model, pushed, "--compat", "--force-tag", "--json").document
    assert moved["bytesPushed"] < 2000
    manifest = json.loads(cli("inspect", pushed, "--raw").out)
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    cli("push", model, f"{repo}:v2", "--rehash", "-q")
    again = cli("tag", f"{repo}:v2", "v1", "--force-tag", "--json").document
    assert again["schema"] == "ocimodel.tag/v1"
    assert again["previous"] == moved["digest"]


def test_pull_in_part_and_through_a_cache(cli: Cli, pushed: str) -> None:
    part = ("pull", pushed, "-o", "part", "--include", "*.json", "--include", "*.txt")
    found = cli(*part, "--exclude", "gr*", "--cache", "cache", "--json").document
    assert [file["path"] for file in found["files"]] == ["config.json"]
    assert found["bytesFetched"] == 23
    assert read_tree(cli.cwd / "part").keys() == {"config.json"}
    other = ("pull", pushed, "-o", "other", "--include", "*.json", "--rehash")
    again = cli(*other, "--cache", "cache", "--json")
    assert (again.document["bytesFetched"], again.document["bytesReused"]) == (0, 23)
    empty = cli("pull", pushed, "-o", "none", "--include", "nothing like it", code=3)
    assert "hint: ocimodel inspect" in empty.err


def test_inspect(cli: Cli, pushed: str, repo: str) -> None:
    text = cli("inspect", pushed).out
    for line in (pushed, "format        safetensors", "weight.config      23 B  config.json"):
        assert f"{line}\n" in text
    document = cli("inspect", pushed, "--json").document
    assert document["schema"] == "ocimodel.inspect/v1"
    assert document["pinned"] == f"{repo}@{document['digest']}"
    assert document["config"]["paramSize"]
    sizes = {file["path"]: file["size"] for file in document["files"]}
    assert sizes["größe 1.txt"] == 6
    raw = cli("inspect", pushed, "--raw").out
    assert json.loads(raw)["artifactType"] == document["artifactType"]
    assert not raw.endswith("\n")


def test_cat(cli: Cli, pushed: str) -> None:
    assert cli("cat", pushed, "größe 1.txt").out == "groß\n"
    document = cli("cat", pushed, "config.json", "--json").document
    assert document["schema"] == "ocimodel.cat/v1"
    assert base64.b64decode(document["base64"]) == b'{"model_type": "bert"}\n'
    assert document["size"] == 23


def test_ls_tag_and_rm(cli: Cli, pushed: str, repo: str) -> None:
    tagged = cli("tag", pushed, "stable")
    assert tagged.out.startswith(f"tagged {repo}:stable\ndigest sha256:")
    assert cli("ls", repo, "-q").out == "stable\nv1\n"
    rows = cli("ls", repo, "--long").out.splitlines()
    assert len({row.split()[1] for row in rows}) == 1
    assert rows[1].startswith("v1      sha256:")
    document = cli("ls", repo, "-l", "--json").document
    assert document["schema"] == "ocimodel.ls/v1"
    assert document["reference"] == repo
    assert [tag["tag"] for tag in document["tags"]] == ["stable", "v1"]
    removed = cli("rm", f"{repo}:stable", "--json").document
    assert removed["schema"] == "ocimodel.rm/v1"
    assert not removed["deleted"]
    gone = cli("rm", removed["pinned"])
    assert gone.out.startswith(f"deleted {removed['pinned']}\n")
    cli("inspect", pushed, code=3)


def test_doctor(cli: Cli, pushed: str) -> None:
    checks = cli("doctor", pushed, "--write").out.splitlines()
    assert all(line.startswith("ok    ") for line in checks)
    document = cli("doctor", pushed, "--json").document
    assert document["schema"] == "ocimodel.doctor/v1"
    assert {"registry", "credentials", "artifact", "ranges"} <= {
        check["name"] for check in document["checks"]
    }
    dead = cli("doctor", "127.0.0.1:9/a/b:c", "--retries", "0", "--json", code=5).document
    assert dead["exitCode"] == 5 and not dead["checks"][0]["ok"]
    told = cli("doctor", "oci:nothing", "-q", code=3).out
    assert told == "layout: there is no OCI image layout at nothing\n"


def test_init(cli: Cli, model: Path) -> None:
    document = cli("init", model, "--json").document
    assert document["schema"] == "ocimodel.init/v1"
    assert (document["format"], document["family"]) == ("safetensors", "bert")
    assert "there already" in cli("init", model, code=9).err
    told = cli("init", "--force", cwd=model).out
    assert "next: ocimodel push . HOST/REPO:TAG\n" in told
    assert cli("init", model, "--force", "-q").out == f"{model}/ocimodel.yaml\n"


def test_login_stores_what_the_registry_accepts_and_logout_forgets(
    cli: Cli, model: Path, registry_htpasswd: DockerRegistry, isolated_environment: Path
) -> None:
    host, stored = registry_htpasswd.host, isolated_environment / ".docker" / "config.json"
    refused = cli("login", host, "-u", "alice", "--password-stdin", stdin="wrong", code=4)
    assert "hint: ocimodel login" in refused.err
    assert not stored.exists()
    login = ("login", host, "-u", "alice", "--password-stdin")
    assert str(stored) in cli(*login, stdin="secret\n").out
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    cli("push", model, f"{host}/cli/login:v1", "--force-tag", "-q")
    assert cli("logout", host).out == f"logged out of {host}\n"
    assert json.loads(stored.read_text())["auths"] == {}
    assert cli("logout", host).out == f"was not logged in to {host}\n"


def test_login_with_a_file_of_its_own(
    cli: Cli, registry_htpasswd: DockerRegistry, isolated_environment: Path
) -> None:
    host = registry_htpasswd.host
    beside = ("--registry-config", "auth.json")
    done = cli("login", host, "-u", "alice", "-p", "secret", *beside, "--json").document
    assert done["schema"] == "ocimodel.login/v1"
    assert (done["host"], done["username"], done["stored"]) == (host, "alice", "auth.json")
    assert stat.S_IMODE((cli.cwd / "auth.json").stat().st_mode) == 0o600
    assert not (isolated_environment / ".docker").exists()
    checks = cli("doctor", f"{host}/a/b", *beside, "--json", code=3).document["checks"]
    assert checks[1]["detail"] == "found for alice"
    gone = cli("logout", host, *beside, "--json").document
    assert gone["schema"] == "ocimodel.logout/v1" and gone["removed"]
    asked = cli("login", host, *beside, code=2)
    assert "--password-stdin" in asked.err


@pytest.mark.parametrize(
    "order",
    [
        ("-q", "pull", "REF", "-o", "x"),
        ("pull", "-q", "-o", "x", "REF"),
        ("pull", "REF", "--output=x", "--quiet"),
        ("pull", "-qo", "x", "--", "REF"),
    ],
)
def test_options_go_before_and_after_the_arguments(
    cli: Cli, model: Path, order: tuple[str, ...]
) -> None:
    cli("pack", model, "oci:layout:v1", "-q")
    words = ["oci:layout:v1" if word == "REF" else word for word in order]
    if words[0] != "pull":
        # only the program's own options come before the verb
        assert "No such option: -q" in cli(*words, code=2).err
        return
    assert PINNED.fullmatch(cli(*words).out)


def test_there_is_a_schema_for_each_verb() -> None:
    from ocimodel.cli.main import VERBS

    named = {path.name.partition(".")[0] for path in SCHEMAS.glob("*.v1.schema.json")}
    assert named == {name.replace("_", "-") for name in VERBS} | {"error"}
