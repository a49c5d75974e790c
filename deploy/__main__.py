"""``python -m deploy`` is ``segdeploy``."""

import sys

from deploy.cli import main

sys.exit(main())
