"""The stages and what stands around them."""

import os

# Threads of OpenMP that wait for each other spin by default; beside one other busy process a stage then takes twenty times as long.
# It must be set before torch is imported, and here comes before everything.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
