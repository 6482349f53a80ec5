"""E1: does most saliency help, as the paper says? Does localization matter, or only occlusion?

python -m experiments.e1 --data imagenette --seeds 3
"""

from data.cli import run
from experiments.table import main

if __name__ == "__main__":
    run(lambda: main("e1", __doc__))
