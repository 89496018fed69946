"""Which files of a directory are the model, and which links may be followed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ocimodel.errors import InputError, NotFoundError
from ocimodel.store.tree import Tree, scan
from tests.artifacts import random_bytes

WEIGHTS = random_bytes(1 << 20, 31)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    root.mkdir()
    return root


def put(path: Path, content: bytes = b"x", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def everything(path: str) -> bool:
    return True


def paths(tree: Tree) -> list[str]:
    return [file.path for file in tree.files]


def test_files_are_found_sorted_with_size_and_executable_bit(root: Path) -> None:
    put(root / "model.safetensors", WEIGHTS)
    put(root / "b/run.sh", b"#!", 0o755)
    put(root / "a b/ünï/模型.bin", b"123")
    put(root / ".hidden", b"")
    put(root / "/".join(["deep"] * 60) / "x")
    tree = scan(root, everything)
    assert paths(tree) == sorted(paths(tree))
    found = {f.path: (f.size, f.executable) for f in tree.files}
    assert found == {
        "model.safetensors": (len(WEIGHTS), False),
        "b/run.sh": (2, True),
        "a b/ünï/模型.bin": (3, False),
        ".hidden": (0, False),
        "/".join(["deep"] * 60) + "/x": (1, False),
    }
    assert next(f.real for f in tree.files if f.size == len(WEIGHTS)).read_bytes() == WEIGHTS
    assert tree.left_out == []


def test_the_order_is_that_of_code_points_not_of_the_walk(root: Path) -> None:
    for name in ("a/b", "a.b", "a-b", "ab", "Z", "é"):
        put(root / name)
    assert paths(scan(root, everything)) == ["Z", "a-b", "a.b", "a/b", "ab", "é"]


def test_empty_directories_are_kept(root: Path) -> None:
    put(root / "a")
    (root / "empty").mkdir()
    (root / "deep/er/empty ü").mkdir(parents=True)
    tree = scan(root, everything)
    assert tree.empty_directories == ["deep/er/empty ü", "empty"]
    assert scan(root, lambda path: path != "empty/").empty_directories == ["deep/er/empty ü"]


def test_an_empty_model_is_empty(root: Path) -> None:
    tree = scan(root, everything)
    assert (tree.files, tree.empty_directories) == ([], [])


def test_private_folders_are_left_out_and_named(root: Path) -> None:
    put(root / "a")
    for name in (".git/config", "sub/.git/x", ".cache/y", "__pycache__/z", ".ocimodel/index.json"):
        put(root / name)
    put(root / ".ocimodel.partial/abc")
    put(root / ".gitattributes")
    tree = scan(root, everything)
    assert paths(tree) == [".gitattributes", "a"]
    assert sorted(tree.left_out) == [
        ".cache",
        ".git",
        ".ocimodel",
        ".ocimodel.partial",
        "__pycache__",
        "sub/.git",
    ]


def test_what_is_not_wanted_is_left_out_and_named(root: Path) -> None:
    put(root / "a.json")
    put(root / "sub/b.bin")
    os.mkfifo(root / "pipe")
    tree = scan(root, lambda path: path.endswith(".json"))
    assert paths(tree) == ["a.json"]
    assert sorted(tree.left_out) == ["pipe", "sub/b.bin"]
    # it is not empty: its files are only not wanted
    assert tree.empty_directories == []


# links


def test_links_inside_the_tree_are_followed(root: Path) -> None:
    put(root / "v1/model.bin", WEIGHTS)
    (root / "model.bin").symlink_to("v1/model.bin")
    (root / "absolute.bin").symlink_to(root / "v1/model.bin")
    (root / "chain.bin").symlink_to("model.bin")
    (root / "latest").symlink_to("v1")
    tree = scan(root, everything)
    assert paths(tree) == [
        "absolute.bin",
        "chain.bin",
        "latest/model.bin",
        "model.bin",
        "v1/model.bin",
    ]
    assert {f.real.read_bytes() for f in tree.files} == {WEIGHTS}
    assert {f.size for f in tree.files} == {len(WEIGHTS)}


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    put(root / "a")
    (root / "b").symlink_to("a")
    link = root.with_name("link")
    link.symlink_to(root)
    assert paths(scan(link, everything)) == ["a", "b"]


REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """What huggingface_hub makes: blobs, and a snapshot of nothing but links to them."""
    cache = tmp_path / "hub/models--org--name"
    put(cache / "blobs/aaa", WEIGHTS)
    put(cache / "blobs/bbb", b"{}")
    put(cache / "refs/main", REVISION.encode())
    snapshot = cache / "snapshots" / REVISION
    (snapshot / "onnx").mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/aaa")
    (snapshot / "config.json").symlink_to("../../blobs/bbb")
    (snapshot / "onnx/model.onnx").symlink_to("../../../blobs/aaa")
    return snapshot


def test_a_hugging_face_snapshot(snapshot: Path) -> None:
    tree = scan(snapshot, everything)
    assert {f.path: f.real.read_bytes() for f in tree.files} == {
        "config.json": b"{}",
        "model.safetensors": WEIGHTS,
        "onnx/model.onnx": WEIGHTS,
    }
    assert paths(scan(snapshot / "onnx", everything)) == ["model.onnx"]


def test_a_link_to_a_hugging_face_snapshot(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(snapshot)
    assert len(scan(tmp_path / "link", everything).files) == 3


@pytest.mark.parametrize("elsewhere", ["refs/main", "snapshots/other/x", "../token"])
def test_a_snapshot_reaches_its_blobs_and_nothing_else(snapshot: Path, elsewhere: str) -> None:
    put(snapshot.parent.parent / elsewhere, b"secret")
    (snapshot / "odd").symlink_to(snapshot.parent.parent / elsewhere)
    with pytest.raises(InputError, match="'odd'"):
        scan(snapshot, everything)


def test_a_folder_that_only_looks_like_a_cache_gets_no_more(tmp_path: Path) -> None:
    put(tmp_path / "blobs/secret")
    root = tmp_path / "notsnapshots" / "r"
    root.mkdir(parents=True)
    (root / "a").symlink_to("../../blobs/secret")
    with pytest.raises(InputError):
        scan(root, everything)


@pytest.mark.parametrize("kind", ["file", "folder", "through", "prefix"])
def test_a_link_out_of_the_tree_is_refused_by_name(root: Path, tmp_path: Path, kind: str) -> None:
    put(tmp_path / "outside/secret", b"secret")
    put(tmp_path / "model2/secret", b"secret")
    put(root / "sub/ok")
    target = {
        "file": tmp_path / "outside/secret",
        "folder": tmp_path / "outside",
        "through": Path("../../outside/secret"),
        "prefix": tmp_path / "model2/secret",
    }[kind]
    (root / "sub/wéird").symlink_to(target)
    with pytest.raises(InputError, match="'sub/wéird'") as caught:
        scan(root, everything)
    assert caught.value.hint


def test_a_dangling_link_is_refused_by_name(root: Path) -> None:
    (root / "gone").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"'gone'.*nowhere"):
        scan(root, everything)


def test_links_in_a_circle(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(InputError, match="'a'"):
        scan(root, everything)


@pytest.mark.parametrize("target", [".", "..", "../sub"])
def test_a_link_to_a_directory_above_it(root: Path, target: str) -> None:
    put(root / "sub/x")
    (root / "sub/loop").symlink_to(target)
    with pytest.raises(InputError, match="'sub/loop'"):
        scan(root, everything)


# what is no file


def test_a_pipe_is_refused_by_name(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(InputError, match="'pipe'"):
        scan(root, everything)


def test_a_socket_is_refused_by_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(InputError, match="'s'"):
            scan(root, everything)


@pytest.mark.parametrize("raw", [b"caf\xe9.bin", b"\xff", b"d\xff/x"])
def test_a_name_that_is_no_utf8_is_refused_by_name(root: Path, raw: bytes) -> None:
    try:
        put(root / os.fsdecode(raw))
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(InputError, match="udc") as caught:
        scan(root, everything)
    # an error that can be shown, logged and sent as JSON
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "back\\slash", "C:x"])
def test_names_that_cannot_be_created_everywhere(root: Path, name: str) -> None:
    put(root / name)
    with pytest.raises(InputError):
        scan(root, everything)


def test_names_that_collide_elsewhere(root: Path) -> None:
    put(root / "README")
    put(root / "readme")
    if len(list(root.iterdir())) < 2:
        pytest.skip("they collide here already")
    with pytest.raises(InputError, match="collides"):
        scan(root, everything)


def test_the_root_must_be_a_directory(root: Path) -> None:
    with pytest.raises(NotFoundError):
        scan(root / "nowhere", everything)
    with pytest.raises(InputError):
        scan(put(root / "file"), everything)
    (root / "gone").symlink_to("nowhere")
    with pytest.raises(NotFoundError):
        scan(root / "gone", everything)


def test_a_name_longer_than_names_can_be(root: Path) -> None:
    with pytest.raises((InputError, NotFoundError)):
        scan(root / ("x" * 300), everything)
