"""One thread for every numeric library: imported before numpy, which reads these variables once.

A process a core and a thread a process is the fastest way to use a machine for many images.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"
