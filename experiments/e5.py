"""E5: how fine the masks are stored.

python -m experiments.e5 --data embedded --seeds 3
"""

from data.cli import run
from experiments.table import main

if __name__ == "__main__":
    run(lambda: main("e5", __doc__))
