"""What is a layout's own: other tools' members in index.json survive our changes."""

from __future__ import annotations

import json
from pathlib import Path

from ocimodel.store.copy import copy
from ocimodel.store.layout import REF_NAME, Layout
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_model


def test_what_other_tools_wrote_into_the_index_survives(tmp_path: Path) -> None:
    source = MemoryStore()
    root = put_model(source, {"config.json": b"{}"})
    layout = Layout(tmp_path / "layout", create=True)
    copy(source, layout, root, tag="v1")
    path = tmp_path / "layout" / "index.json"
    index = json.loads(path.read_bytes())
    index["annotations"] = {"other.tool": "top"}
    index["manifests"][0]["platform"] = {"os": "linux", "architecture": "amd64"}
    index["manifests"][0]["annotations"]["other.tool"] = "entry"
    path.write_text(json.dumps(index))

    layout.tag("v2", root.descriptor)
    layout.untag("v1")

    after = json.loads(path.read_bytes())
    (entry,) = after["manifests"]
    assert after["annotations"] == {"other.tool": "top"}
    assert entry["platform"] == {"os": "linux", "architecture": "amd64"}
    assert entry["annotations"] == {"other.tool": "entry", REF_NAME: "v2"}
