# SPDX-License-Identifier: Apache-2.0
"""A competition entry from training to its ranking file, as the systems of NAIC 2020 make it; see `pipeline`."""
