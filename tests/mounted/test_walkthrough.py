"""README's promises, by the plain shell script that makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "walkthrough.sh"


def test_the_walkthrough_works(tree: Path, debian: str) -> None:
    done = subprocess.run([SCRIPT, tree, debian], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("walkthrough: all well\n")
