"""E3: what the foreground is pasted onto.

python -m experiments.e3 --data embedded --seeds 3
"""

from data.cli import run
from experiments.table import main

if __name__ == "__main__":
    run(lambda: main("e3", __doc__))
