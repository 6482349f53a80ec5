"""E6: other methods than MoCo v2.

python -m experiments.e6 --data embedded --seeds 3
"""

from data.cli import run
from experiments.table import main

if __name__ == "__main__":
    run(lambda: main("e6", __doc__))
