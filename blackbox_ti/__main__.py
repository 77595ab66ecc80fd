"""`python -m blackbox_ti` is `blackbox-ti`."""

import sys

from blackbox_ti.cli import main

sys.exit(main())
