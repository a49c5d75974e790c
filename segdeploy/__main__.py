"""``python -m segdeploy`` is ``segdeploy``."""

import sys

from segdeploy.cli.main import main

sys.exit(main())
