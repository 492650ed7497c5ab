"""`python -m app`: the same as `fluxhook`."""

import sys

from app.cli import main

sys.exit(main())
