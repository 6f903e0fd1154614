"""`python -m tinyagent_cli`, the same as the script `tinyagent`."""

import os
import sys


def _drop_working_directory() -> None:
    """Remove the working directory from the path, where -m puts it: no module is meant to come from there."""
    try:
        here = os.getcwd()  # noqa: PTH109 - pathlib takes longer
    except FileNotFoundError:
        return
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100,PTH120
    if not sys.flags.safe_path and sys.path[0] == here != ours:
        del sys.path[0]


if __name__ == "__main__":
    try:
        _drop_working_directory()
        from tinyagent_cli.main import main  # noqa: TID251 - this is the process
    except KeyboardInterrupt:  # after the import, `main` handles it
        os._exit(130)
    sys.exit(main())
