"""What the pages say is so: links lead somewhere, examples run, commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from ocimodel.cli.main import program
from tests.servers.models import tiny_safetensors

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SKIPPED = {"node_modules", "demo-out", "build", "dist"}
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(p.startswith(".") or p in SKIPPED for p in path.relative_to(ROOT).parts)
)

_FENCE = re.compile(r"^(```+)[ \t]*(\w*)[^\n]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block. `line`: of its first line in the page, from 1."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[2], m[3], text.count("\n", 0, m.start(3)) + 1) for m in _FENCE.finditer(text)]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# links


def anchors(page: Path) -> set[str]:
    """Headings as GitHub makes fragments of them."""
    plain = (re.sub(r"[^\w\- ]", "", h.lower()) for h in _HEADING.findall(prose(page)))
    return {text.replace(" ", "-") for text in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for link in (a or b for a, b in _LINK.findall(_INLINE.sub("", prose(page)))):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        whole = target.suffix != ".md" or not fragment
        if not target.exists() or not (whole or fragment in anchors(target)):
            broken.append(link)
    assert not broken


# the Python examples


def test_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "python.md"
    model = tmp_path / "model"
    tiny_safetensors(model / "model.safetensors", {"embeddings.weight": (64, 128)})
    (model / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    monkeypatch.chdir(tmp_path)
    found = [block for block in blocks(page) if block.language == "python"]
    assert found
    names: dict[str, object] = {"__name__": "docs_python"}
    for block in found:
        # empty lines in front, so that a traceback shows the line of the page
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, str(page), "exec"), names)


# the commands

_STARTS = {"|", "||", "&&", ";", "(", "<(", "$(", "{", "!", "then", "do", "else", "if", "exec", "$"}
_ENDS = {"|", "||", "&", "&&", ";", ")", ">", ">>", "<", "<<", "<<<", "2>", "}"}


def commands(line: str) -> Iterator[list[str]]:
    """The arguments of each call of ocimodel in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    words = list(lexer)
    for i, word in enumerate(words):
        before = words[i - 1] if i else "|"
        if word != "ocimodel" or not (before in _STARTS or "=" in before):
            continue
        rest = words[i + 1 :]
        end = next((n for n, w in enumerate(rest) if w in _ENDS), len(rest))
        # a number before > is a descriptor
        if end < len(rest) and rest[end].startswith(">") and end and rest[end - 1].isdigit():
            end -= 1
        yield rest[:end]


def problem(arguments: list[str], *, whole: bool = True) -> str:
    """Why the program would refuse these arguments, or nothing. No verb is run.

    `whole`: all of the command is there; else only verb and options are looked at.
    """
    command = typer.main.get_command(program())
    context = command.make_context("ocimodel", [], resilient_parsing=True)
    if not arguments or arguments[0] in ("--version", "--help", "-h"):
        return ""
    verb = command.get_command(context, arguments[0])  # type: ignore[attr-defined]
    if verb is not None and hasattr(verb, "get_command") and len(arguments) > 1:
        # a verb of two words
        context = verb.make_context(arguments[0], [], context, resilient_parsing=True)
        arguments = arguments[1:]
        verb = verb.get_command(context, arguments[0])
    if verb is None:
        return f"there is no verb {arguments[0]}"
    known = {o for p in verb.params for o in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
    for word in arguments[1:]:
        option = word.partition("=")[0]
        if re.fullmatch(r"--[a-z][a-z-]*|-[a-z]", option) and option not in known:
            return f"{arguments[0]} has no option {option}"
    if not whole or "--help" in arguments or "-h" in arguments:
        return ""
    try:
        verb.make_context(arguments[0], list(arguments[1:]), context)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def written_commands(page: Path) -> Iterator[tuple[str, list[str], bool]]:
    """(the line, its arguments, whether they are complete) for all that a page shows."""
    for block in blocks(page):
        if block.language not in ("sh", "bash", "shell", "console", "text", ""):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            text = re.sub(r"(^|\s)#.*$", "", line.strip()).removeprefix("$ ")
            if re.search(r"(^|[\s(])ocimodel ", text) and not text.startswith("Usage:"):
                yield from ((text, found, True) for found in _tried(text))
    for text in _INLINE.findall(prose(page)):
        if text.startswith("ocimodel ") and re.match(r"ocimodel [a-z-]", text):
            yield from ((text, found, False) for found in _tried(text))


def _tried(text: str) -> list[list[str]]:
    try:
        return list(commands(text))
    except ValueError:
        # no shell: a file name with an apostrophe, output of the program
        return []


COMMAND_PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", COMMAND_PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    if not page.is_file():
        pytest.skip(f"there is no {name_of(page)} yet")
    wrong = {
        text: why
        for text, found, whole in written_commands(page)
        if (why := problem(found, whole=whole))
    }
    assert not wrong


def test_the_check_of_commands_sees_what_is_wrong() -> None:
    good = "FOO=1 ocimodel pull h.example/m:v1 -o x --include '*.json' 2> log | cat"
    assert list(commands(good)) == [["pull", "h.example/m:v1", "-o", "x", "--include", "*.json"]]
    assert not problem(next(commands(good)))
    assert list(commands("source <(ocimodel completion bash)")) == [["completion", "bash"]]
    assert "no verb" in problem(["sing", "x"])
    assert not problem(["cache", "gc", "--max-size", "10G"])
    assert "no verb" in problem(["cache", "sing"])
    assert "no option" in problem(["cache", "ls", "--max-size", "10G"])
    assert "no option" in problem(["pull", "x", "--outptu", "y"])
    assert "no option" in problem(["pull", "x", "--outptu", "y"], whole=False)
    assert problem(["pull", "h.example/m:v1"])
    assert problem(["pull", "h.example/m:v1", "-o", "x", "too-much"])
    assert problem(["completion", "tcsh"])


def test_the_pages_have_commands() -> None:
    found = [text for page in COMMAND_PAGES if page.is_file() for text in written_commands(page)]
    assert len(found) > 10


# what is counted and listed


def test_every_decision_and_change_is_numbered_without_gaps() -> None:
    for folder in ("adr", "changes"):
        numbers = sorted(
            int(p.name[:4]) for p in (ROOT / "docs" / folder).glob("[0-9][0-9][0-9][0-9]-*.md")
        )
        assert numbers == list(range(1, len(numbers) + 1)), folder


def test_the_limits_are_those_of_the_code() -> None:
    from ocimodel.ops.packing import MAX_HF_CONFIG_BYTES
    from ocimodel.ops.yamlfile import MAX_YAML_BYTES
    from ocimodel.registry.control import MAX_PAGE_BYTES, MAX_PAGES
    from ocimodel.registry.transport import MAX_ERROR_BYTES, MAX_TOKEN_BYTES
    from ocimodel.spec.manifest import MAX_LAYERS, MAX_MANIFEST_BYTES
    from ocimodel.spec.modelpack import MAX_CONFIG_BYTES
    from ocimodel.spec.paths import MAX_NAME_BYTES, MAX_PATH_BYTES
    from ocimodel.store.copy import MAX_DEPTH
    from ocimodel.store.layout import MAX_INDEX_BYTES

    section = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8").partition("## Limits")[2]
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", section, re.MULTILINE))
    expected = {
        "manifest, index, referrers list": mib(MAX_MANIFEST_BYTES),
        "layers of a manifest, entries of an index": f"{MAX_LAYERS:,}",
        "model configuration": mib(MAX_CONFIG_BYTES),
        "`index.json` of a layout": mib(MAX_INDEX_BYTES),
        "a page of tags; number of pages": f"{mib(MAX_PAGE_BYTES)}; {MAX_PAGES:,}",
        "nesting of indexes, referrers of referrers": str(MAX_DEPTH),
        "answer of a token server": mib(MAX_TOKEN_BYTES),
        "error body of a registry": f"{MAX_ERROR_BYTES >> 10} KiB",
        "`ocimodel.yaml`": mib(MAX_YAML_BYTES),
        "`config.json` of a model": mib(MAX_HF_CONFIG_BYTES),
        "path; component": f"{MAX_PATH_BYTES}; {MAX_NAME_BYTES} bytes",
    }
    assert {name: rows.get(name) for name in expected} == expected


def mib(n_bytes: int) -> str:
    return f"{n_bytes >> 20} MiB"


def test_every_key_of_ocimodel_yaml_is_described() -> None:
    from ocimodel.spec.modelfile import _FIELDS

    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    section = page.partition("## `ocimodel.yaml`")[2].partition("\n## ")[0]
    assert not [key for key in _FIELDS if f"`{key}" not in section]


def test_every_exit_code_is_described() -> None:
    from ocimodel import errors

    classes = [
        c
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.OcimodelError)
    ]
    codes = (ROOT / "docs" / "registries.md").read_text(encoding="utf-8")
    python = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for found in classes:
        assert f"| {found.exit_code} |" in codes
        assert f"`{found.__name__}`" in python
