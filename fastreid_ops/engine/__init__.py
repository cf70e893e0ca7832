# SPDX-License-Identifier: Apache-2.0
"""Training: run.py (one run), loop.py (the loop), state.py, checkpoint.py, resume.py, run_folder.py,
assess.py, extract.py ...

Import the modules by name; nothing is re-exported here, so that a part of the engine costs only what it
needs.
"""
