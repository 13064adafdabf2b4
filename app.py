"""What a Space runs, and what `python app.py` runs: the web app over all plugins that are found."""

import sys

from attnviz.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["serve"]))
