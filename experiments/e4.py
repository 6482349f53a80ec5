"""E4: how often views are pasted.

python -m experiments.e4 --data embedded --seeds 3
"""

from data.cli import run
from experiments.table import main

if __name__ == "__main__":
    run(lambda: main("e4", __doc__))
