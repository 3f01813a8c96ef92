"""Makes a policy that comes with the package from a finished run: ``moto play --pretrained NAME`` shows it.

    python scripts/pretrained.py runs/demo drawer-open

It writes ``moto_pl/deploy/pretrained/NAME`` and its line in ``index.json`` there. Commit both, or leave the folder out
and attach it to the release: the index alone is enough to know it by.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from moto_pl.deploy.pretrained import release
from moto_pl.errors import SettingError


def main() -> int:
    """Reads the arguments, and says what was made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's directory")
    parser.add_argument("name", help="what it is called, such as drawer-open")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--episodes", type=int, default=20, help="test episodes on which precisions are compared")
    given = parser.parse_args()
    try:
        print(release(given.run, given.name, given.checkpoint, given.episodes))
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
