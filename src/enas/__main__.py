"""`python -m enas`, the same as `enas`."""

import sys

from enas.cli import main

sys.exit(main())
