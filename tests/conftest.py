# SPDX-License-Identifier: Apache-2.0
"""Set before torch is imported: its threads sleep while they wait for each other instead of spinning. Where two
processes with torch share few cores, spinning makes small operators up to a hundred times slower.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
