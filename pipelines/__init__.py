"""The stages and what stands around them."""

import os

# Threads of OpenMP spin while they wait for each other, which on a busy machine takes the core from the one that is
# waited for. They go to sleep sooner like this, which costs an idle machine nothing. Torch reads it when it is
# imported, so it stands before all.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
