"""`python -m tinyagent_cli`, the same as the script `tinyagent`."""

import os
import sys

# -m puts the working directory first on the path; nothing may be imported from there by accident.
if not sys.flags.safe_path and sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH109,PTH120
    del sys.path[0]

from tinyagent_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
