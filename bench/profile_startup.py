"""Show what a bare start of the command line imports, and what each import costs.

python -m bench.profile_startup [--top N] [ARG …]       # default: --version, --help
"""

from __future__ import annotations

import argparse
import re
import subprocess

from bench.tools import OCIMODEL, REPO

LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|(\s*)(\S+)")


def import_times(args: list[str]) -> list[tuple[int, int, str]]:
    """Own and cumulative microseconds and name of each module, dearest first."""
    argv = [OCIMODEL[0], "-X", "importtime", *OCIMODEL[1:], *args]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)
    found = [(int(m[1]), int(m[2]), m[4]) for m in LINE.finditer(done.stderr)]
    return sorted(found, key=lambda row: row[1], reverse=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.profile_startup")
    parser.add_argument("--top", type=int, default=20)
    options, rest = parser.parse_known_args()
    for args in [rest] if rest else [["--version"], ["--help"]]:
        rows = import_times(args)
        total = sum(own for own, _, _ in rows) / 1000
        print(f"\nocimodel {' '.join(args)}: {len(rows)} modules, {total:.1f} ms in imports")
        print("    own ms  with its own imports ms")
        for own, cumulative, name in rows[: options.top]:
            print(f"{own / 1000:10.1f} {cumulative / 1000:10.1f}  {name}")


if __name__ == "__main__":
    main()
