"""Print what setup.cfg requires, one requirement a line; with ``--extras`` that of every extra too.

Needs nothing but Python, so that a fresh environment can start from it.
"""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"


def requirements() -> dict[str, list[str]]:
    """Requirements of each extra by its name; those of the core under an empty one."""
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    extras = setup["options.extras_require"]
    texts = {"": setup["options"]["install_requires"], **extras}
    return {name: text.strip().splitlines() for name, text in texts.items()}


def main() -> None:
    """Print them."""
    found = requirements()
    chosen = found if "--extras" in sys.argv[1:] else {"": found[""]}
    print("\n".join(sorted({line for lines in chosen.values() for line in lines})))


if __name__ == "__main__":
    main()
