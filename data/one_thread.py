"""One thread for every numeric library: imported before numpy, which reads these variables once."""

import os

from data.stopping import THREADS

os.environ.update(THREADS)
