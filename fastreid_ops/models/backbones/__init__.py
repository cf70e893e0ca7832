# SPDX-License-Identifier: Apache-2.0
"""Networks from an image to a feature map, shared by several architectures."""
