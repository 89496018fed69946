"""keygen, sign, attest, verify, and what push and pull have to do with signatures: the program."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ocimodel
from tests.e2e.conftest import Cli
from tests.e2e.test_cli import PINNED
from tests.servers import faults
from tests.servers.fault_proxy import FaultProxy
from tests.servers.registry import DockerRegistry, GgcrRegistry
from tests.signing import PROVENANCE, SLSA, key_files, private_key

Fails = Callable[..., dict[str, Any]]
PW = {"COSIGN_PASSWORD": "pw"}
SHORT = {"COSIGN_PASSWORD": ""}


@pytest.fixture
def key(work: Path) -> str:
    """A key file without a passphrase, its public half beside it."""
    return str(key_files(work)[0].relative_to(work))


@pytest.fixture
def layout(cli: Cli, model: Path) -> str:
    cli("pack", model, "oci:layout:v1", "-q")
    return "oci:layout:v1"


@pytest.fixture
def predicate(work: Path) -> str:
    (work / "predicate.json").write_text(json.dumps(PROVENANCE))
    return "predicate.json"


# keygen


def test_keygen(cli: Cli) -> None:
    done = cli("keygen", "release", env=PW)
    assert done.out.startswith("private key release.key: keep it to yourself\n")
    assert "public key release.pub: give it to whoever verifies\n" in done.out
    assert "fingerprint sha256:" in done.out and done.err == ""
    assert stat.S_IMODE((cli.cwd / "release.key").stat().st_mode) == 0o600
    assert b"ENCRYPTED SIGSTORE PRIVATE KEY" in (cli.cwd / "release.key").read_bytes()
    document = cli("keygen", "other", "--json", env=PW).document
    assert (document["private"], document["public"]) == ("other.key", "other.pub")
    assert cli("keygen", "-q", env=PW).out == "ocimodel.pub\n"


def test_keygen_overwrites_nothing(cli: Cli, error: Fails) -> None:
    for name in ("a.key", "b.pub"):
        (cli.cwd / name).write_text("mine")
        told = error(9, "keygen", name[0], env=PW)
        assert f"{name} is there already" in told["message"]
    assert sorted(p.name for p in cli.cwd.iterdir()) == ["a.key", "b.pub"]


def test_keygen_wants_a_passphrase_or_the_word_that_there_is_none(cli: Cli, error: Fails) -> None:
    told = error(2, "keygen", "k")
    assert "no terminal to ask" in told["message"] and "COSIGN_PASSWORD" in told["hint"]
    assert not list(cli.cwd.iterdir())
    done = cli("keygen", "k", env=SHORT)
    assert "k.key is protected by nothing but its file permissions" in done.err


def test_keygen_into_no_folder(cli: Cli) -> None:
    assert "cannot write none/k.key" in cli("keygen", "none/k", env=PW, code=10).err


# sign


def test_sign(cli: Cli, layout: str) -> None:
    cli("keygen", "k", env=PW)
    done = cli("sign", layout, "--key", "k.key", env=PW)
    assert done.out.startswith("signed oci:layout@sha256:")
    assert done.out.count("wrote oci:layout") == 2
    again = cli("sign", layout, "--key", "k.key", "--json", env=PW).document
    assert again["written"] == [] and again["format"] == "cosign"
    assert "was signed so already" in cli("sign", layout, "--key", "k.key", env=PW).out
    assert PINNED.fullmatch(cli("sign", layout, "--key", "k.key", "-q", env=PW).out)
    more = cli("sign", layout, "--key", "k.key", "-a", "stage=prod", "--json", env=PW).document
    assert len(more["written"]) == 2


def test_sign_by_digest_and_not_by_repository(
    cli: Cli, error: Fails, key: str, pushed: str
) -> None:
    pinned = cli("inspect", pushed, "-q").out.strip()
    assert cli("sign", pinned, "--key", key, "--json").document["pinned"] == pinned
    cli("verify", pinned, "--key", "release.pub")
    cli("verify", pushed, "--key", "release.pub")
    told = error(2, "sign", pushed.removesuffix(":v1"), "--key", key)
    assert "names no tag and no digest" in told["message"]


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (3, ("oci:layout:v1", "--key", "none.key"), "there is no key file none.key"),
        (3, ("oci:layout:v9", "--key", "release.key"), "v9"),
        (3, ("oci:layout:v1", "--key", "env://NONE"), "no NONE"),
        (2, ("oci:layout:v1", "--key", "release.key", "--format", "pgp"), "'pgp' is no format"),
        (2, ("oci:layout:v1", "--key", "release.key", "--format", "oms"), "not what the format"),
        (2, ("oci:layout:v1", "--key", "release.key", "--format", "notation"), "certificates"),
        (2, ("model", "--key", "release.key"), "not what the format cosign signs"),
        (2, ("oci:layout:v1", "--key", "nokms://k"), "opens keys like nokms://k"),
        (2, ("oci:layout:v1", "--key", "release.key", "--expires", "soon"), "no duration"),
        (2, ("oci:layout:v1", "--key", "release.key", "-a", "x"), "'x' has no name and value"),
        (
            2,
            ("oci:layout:v1", "--key", "release.key", "-a", "dev.ocimodel.tag=v2"),
            "set by ocimodel itself",
        ),
        (2, ("oci:layout:v1",), "Missing option '--key'"),
        (10, ("oci:layout:v1", "--key", "release.pub"), "PUBLIC KEY"),
    ],
)
def test_what_sign_refuses(
    error: Fails, layout: str, key: str, code: int, arguments: tuple[str, ...], says: str
) -> None:
    assert says in error(code, "sign", *arguments)["message"]


def test_a_wrong_passphrase(cli: Cli, error: Fails, layout: str) -> None:
    cli("keygen", "k", env=PW)
    sign = ("sign", layout, "--key", "k.key")
    told = error(10, *sign, env={"COSIGN_PASSWORD": "wrong"})
    assert "wrong passphrase for k.key" in told["message"]
    assert "no terminal to ask" in error(2, *sign)["message"]
    assert "wrong" not in told["hint"] and "pw" not in json.dumps(told)


def test_a_key_in_the_environment(cli: Cli, layout: str, key: str) -> None:
    variables = {"SECRET": (cli.cwd / key).read_text(), "OCIMODEL_SIGNING_KEY": "env://SECRET"}
    assert cli("sign", layout, "--json", env=variables).document["written"]
    cli("verify", layout, "--key", "release.pub")


# attest


def test_attest(cli: Cli, layout: str, key: str, predicate: str) -> None:
    attest = ("attest", layout, "--key", key, "--predicate", predicate)
    done = cli(*attest, "--type", "slsaprovenance1", "--compat")
    assert done.out.startswith("attested oci:layout@sha256:")
    assert f"{SLSA} by sha256:{private_key().public_key.fingerprint[7:]}" in done.out
    assert done.out.count("wrote ") == 2 and ".att\n" in done.out
    again = cli(*attest, "--type", SLSA, "--json").document
    assert (again["predicateType"], again["written"]) == (SLSA, [])
    assert PINNED.fullmatch(cli(*attest, "--type", "https://example.com/p", "-q").out)
    cli("verify", layout, "--key", "release.pub", code=7)
    cli("sign", layout, "--key", key, "-q")
    cli("verify", layout, "--key", "release.pub", "--type", "slsaprovenance1")
    cli("verify", layout, "--key", "release.pub", "--type", "spdxjson", code=7)


def test_what_attest_refuses(cli: Cli, error: Fails, layout: str, key: str, predicate: str) -> None:
    attest = ("attest", layout, "--key", key, "--predicate")
    for raw in ("{", "[]", '{"a":1,"a":2}', '{"a":NaN}', "x" * (3 << 20)):
        (cli.cwd / "bad.json").write_text(raw)
        assert "bad.json" in json.dumps(error_of(cli, 10, *attest, "bad.json", "--type", SLSA))
    assert "none.json" in json.dumps(error_of(cli, 3, *attest, "none.json", "--type", SLSA))
    told = error(10, *attest, predicate, "--type", "slsaprovenanc1")
    assert "did you mean slsaprovenance1?" in told["hint"]


def error_of(cli: Cli, code: int, *arguments: str) -> dict[str, Any]:
    return dict(cli(*arguments, "--json", code=code).document["error"])


# verify


def test_verify(cli: Cli, layout: str, key: str) -> None:
    cli("sign", layout, "--key", key, "-q")
    key_files(cli.cwd, "other")
    done = cli("verify", layout, "--key", "release.pub")
    assert done.out.startswith(f"verified {layout}\ndigest sha256:")
    assert "key release.pub: accepts\n" in done.out and done.err == ""
    assert PINNED.fullmatch(cli("verify", layout, "--key", "release.pub", "-q").out)
    document = cli("verify", layout, "--key", "release.pub", "--json").document
    assert document["accepted"] and "blobs" not in document
    (judgement,) = document["judgements"]
    assert {e["form"] for e in judgement["evidence"]} == {"bundle", "simplesigning"}
    assert all(e["countedBy"].keys() == {"release.pub"} for e in judgement["evidence"])
    deep = cli("verify", layout, "--key", "release.pub", "--deep", "--json").document
    assert deep["accepted"] and deep["blobs"] and deep["problems"] == []


def test_verify_refuses_with_all_that_it_knows(cli: Cli, layout: str, key: str) -> None:
    cli("sign", layout, "--key", key, "-q")
    key_files(cli.cwd, "other")
    done = cli("verify", layout, "--key", "other.pub", code=7)
    assert done.out.startswith(f"REFUSED {layout}\n")
    assert "key other.pub: refuses\n" in done.out
    assert done.out.count("not signed by this key") >= 2
    document = cli("verify", layout, "--key", "other.pub", "--json", code=7).document
    assert document["schema"] == "ocimodel.verify/v1" and not document["accepted"]
    (judgement,) = document["judgements"]
    assert judgement["reasons"] and not judgement["accepted"]
    assert {"other.pub": "not signed by this key"} in [e["refusals"] for e in judgement["evidence"]]
    assert cli("verify", layout, "--key", "other.pub", "-q", code=7).out.strip() == ""


def test_verify_asks_for_what_it_is_told_to(cli: Cli, error: Fails, layout: str, key: str) -> None:
    cli("sign", layout, "--key", key, "-a", "stage=prod", "-q")
    verify = ("verify", layout, "--key", "release.pub")
    cli(*verify, "-a", "stage=prod")
    told = cli(*verify, "-a", "stage=test", code=7).out
    assert "annotation stage is 'prod', not 'test'" in told
    assert "attestation" in cli(*verify, "--type", SLSA, code=7).out
    assert "nothing says whose signature counts" in error(2, "verify", layout)["message"]
    error(2, "verify", layout, "-a", "stage=prod")
    error(3, "verify", layout, "--key", "none.pub")
    error(3, "verify", "oci:layout:v9", "--key", "release.pub")
    error(10, "verify", layout, "--policy", "none.yaml")


def test_a_signed_directory(cli: Cli, error: Fails, model: Path, key: str) -> None:
    key_files(cli.cwd, "other")
    verify = ("verify", "model", "--key", "release.pub")
    assert "model.sig" in error(3, *verify)["message"]
    signed = cli("sign", "model", "--key", key, "--format", "oms", "--json").document
    assert signed["written"] == ["model/model.sig"] and "digest" not in signed
    document = cli(*verify, "--json").document
    assert document["accepted"] and document["problems"] == []
    assert cli(*verify).out.startswith("verified model\n")
    cli("pack", "model", "oci:layout:v1", "-q")
    cli("pull", "oci:layout:v1", "-o", "pulled", "-q")
    cli("verify", "./pulled", "--key", "release.pub")
    assert "not signed by this key" in error(7, "verify", "model", "--key", "other.pub")["message"]
    (model / "config.json").write_text("{}")
    (model / "extra.bin").write_bytes(b"x")
    done = cli(*verify, code=6)
    assert done.out.startswith("WRONG model\n")
    assert "wrong: config.json: changed\n" in done.out
    changed = cli(*verify, "--json", code=6).document
    assert not changed["accepted"] and len(changed["problems"]) == 2
    assert "with a key and nothing else" in error(2, *verify, "--policy", "x.yaml")["message"]


# push and pull


def test_push_signs_before_it_tags(
    cli: Cli,
    error: Fails,
    model: Path,
    key: str,
    docker_registry: DockerRegistry,
    ggcr: GgcrRegistry,
    fault_proxy: Callable[..., FaultProxy],
) -> None:
    """Whatever stops the signature stops the tag."""
    for number, registry in enumerate((docker_registry, ggcr)):
        proxy = fault_proxy(registry)
        reference = f"{proxy.host}/cli/signfirst{number}:v1"
        for path in (r"/manifests/sha256:", r"/manifests/sha256-.*\.sig$"):

            def carries_a_signature(request: faults.Request) -> bool:
                return b"sigstore.bundle" in request.body() or b"simplesigning" in request.body()

            refused = faults.Fault(
                faults.Status(403), method="PUT", path=path, times=None, when=carries_a_signature
            )
            proxy.apply([refused])
            error(4, "push", model, reference, "--sign", key)
            assert refused.hits
            cli("inspect", reference, code=3)
            proxy.clear()
        done = cli("push", model, reference, "--sign", key)
        assert "signed: " in done.out
        puts = [e.path.rpartition("/")[2] for e in proxy.select("PUT", "/manifests/")]
        assert puts[-1] == "v1" and any(name.endswith(".sig") for name in puts[:-1])
        cli("pull", reference, "-o", f"out{number}", "--key", "release.pub")


def test_push_with_a_key_that_cannot_be_opened_sends_nothing(
    cli: Cli, error: Fails, model: Path, repo: str
) -> None:
    cli("keygen", "k", env=PW)
    error(10, "push", model, f"{repo}:v1", "--sign", "k.key", env={"COSIGN_PASSWORD": "no"})
    error(3, "push", model, f"{repo}:v1", "--sign", "none.key")
    error(2, "push", model, f"{repo}:v1", "--sign", "k.key")
    cli("ls", repo, code=3)
    planned = cli("push", model, f"{repo}:v1", "--sign", "k.key", "--dry-run", "--json", env=PW)
    assert "signatures" not in planned.document
    document = cli("push", model, f"{repo}:v1", "--sign", "k.key", "--json", env=PW).document
    assert len(document["signatures"]) == 2
    again = cli("push", model, f"{repo}:v1", "--json", env={**PW, "OCIMODEL_SIGN": "k.key"})
    assert again.document["bytesPushed"] == 0 and "signatures" not in again.document


def test_pull_with_a_key(cli: Cli, error: Fails, pushed: str, key: str) -> None:
    key_files(cli.cwd, "other")
    pull = ("pull", pushed, "-o", "out")
    told = error(7, *pull, "--key", "release.pub")
    assert told["kind"] == "policy" and "there is nothing else" in told["message"]
    assert told["hint"] == f"to see all evidence: ocimodel verify {pushed} --json"
    cli("sign", pushed, "--key", key, "-q")
    error(7, *pull, "--key", "other.pub")
    assert not (cli.cwd / "out").exists()
    done = cli(*pull, "--key", "release.pub")
    assert "bundle https://sigstore.dev/cosign/sign/v1 by release.pub (key sha256:" in done.out
    document = cli(*pull, "--key", "release.pub", "--json").document
    assert [e["form"] for e in document["evidence"]] == ["bundle", "simplesigning"]
    assert cli(*pull, "--json").document["evidence"] == []


def policy(work: Path, name: str = "policy.yaml", by: str = "release") -> Path:
    key_files(work, by)
    text = f"version: 1\nkeyring: {{{by}: {{key: {work}/{by}.pub}}}}\nscopes:\n"
    (work / name).write_text(text + f"- {{repositories: ['*'], require: [{{by: [{by}]}}]}}\n")
    return work / name


def test_a_policy_from_everywhere_but_the_model(
    cli: Cli, error: Fails, pushed: str, key: str, isolated_environment: Path
) -> None:
    strict, pull = policy(cli.cwd), ("pull", pushed, "-o", "out")
    error(7, *pull, "--policy", str(strict))
    error(7, *pull, env={"OCIMODEL_POLICY": str(strict)})
    error(7, *pull, env={"OCIMODEL_KEY": "release.pub"})
    config = isolated_environment / ".xdg_config_home" / "ocimodel" / "config.yaml"
    config.parent.mkdir(parents=True)
    for setting in (f"policy: {strict}", f"key: {cli.cwd}/release.pub"):
        config.write_text(setting)
        error(7, *pull)
    # a flag goes before them, and does not take the other one away
    config.write_text(f"policy: {strict}")
    other = policy(cli.cwd, "other.yaml", "other")
    error(7, *pull, "--policy", str(other))
    cli("sign", pushed, "--key", key, "-q")
    cli(*pull)
    error(7, *pull, "--policy", str(other))
    error(7, *pull, "--key", "other.pub")


@pytest.mark.parametrize("name", ["key", "policy"])
def test_a_directory_cannot_say_whom_to_trust(
    cli: Cli, pushed: str, key: str, name: str, isolated_environment: Path
) -> None:
    """An ocimodel.yaml comes with the model: it must not replace what the user has set."""
    cli("sign", pushed, "--key", key, "-q")
    other = policy(cli.cwd, "other.yaml", "other")
    value = {"key": "release.pub", "policy": str(policy(cli.cwd))}[name]
    strict = {"OCIMODEL_POLICY": str(other)}
    cli("pull", pushed, "-o", "out", code=7, env=strict)
    (cli.cwd / "ocimodel.yaml").write_text(f"settings: {{{name}: {value}}}\n")
    done = cli("pull", pushed, "-o", "out", code=10, env=strict)
    assert f"settings.{name}" in done.err
    assert not (cli.cwd / "out").exists()


def test_signing_behind_a_login(
    cli: Cli, error: Fails, model: Path, key: str, predicate: str, registry_htpasswd: DockerRegistry
) -> None:
    reference = f"{registry_htpasswd.host}/cli/signed{os.getpid()}:v1"
    login = {"OCIMODEL_USERNAME": "alice", "OCIMODEL_PASSWORD": "secret"}
    cli("push", model, reference, "--sign", key, "-q", env=login)
    attest = ("attest", reference, "--key", key, "--type", SLSA, "--predicate", predicate)
    cli(*attest, "--compat", "-q", env=login)
    verify = ("verify", reference, "--key", "release.pub", "--type", SLSA)
    assert cli(*verify, env=login).out.startswith("verified ")
    error(4, *verify)
    error(4, "sign", reference, "--key", key)
    error(4, "pull", reference, "-o", "out", "--key", "release.pub")
    cli("pull", reference, "-o", "out", "--key", "release.pub", env=login)


def test_the_public_functions_take_what_the_program_takes(work: Path, layout: str) -> None:
    made = ocimodel.keygen(work / "k", passphrase=b"x")
    where = f"oci:{work}/layout:v1"
    signed = ocimodel.sign(where, key=str(made.private), passphrase=lambda what: b"x")
    assert signed.signer.startswith(made.fingerprint)
    assert ocimodel.verify(where, key=str(made.public)).judgements[0].decision.accepted
