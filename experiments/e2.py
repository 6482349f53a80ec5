"""E2: the background benchmark: does the network with DiLo look at the object?

python -m experiments.e2 --data embedded --seeds 3
"""

from data.cli import run
from experiments.table import main

if __name__ == "__main__":
    run(lambda: main("e2", __doc__))
