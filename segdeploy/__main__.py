"""``python -m segdeploy`` is ``segdeploy``."""

import sys

from segdeploy.deploy.cli import main

sys.exit(main())
