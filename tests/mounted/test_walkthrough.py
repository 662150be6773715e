"""README's promises, by the plain shell script that makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "walkthrough.sh"


def test_the_walkthrough_works(tree: Path) -> None:
    done = subprocess.run([SCRIPT, tree], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "walkthrough: all well\n"), done.stderr
