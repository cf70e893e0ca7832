# SPDX-License-Identifier: Apache-2.0
"""Images with identities: manifests, data sets, transforms, samplers and loaders. Imports neither ops nor
models."""
