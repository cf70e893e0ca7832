# SPDX-License-Identifier: Apache-2.0
"""The operators: one module per op, each with its public function, ``reference()``, fake, backward and
autocast.

Every module reads the same way from top to bottom: the public function with its five contract lines
(Shapes, NaN, Ties, Determinism, Memory), ``reference()`` in plain torch (the specification, and what runs
where the native library does not), and the registrations that make the native op work under autograd,
autocast, vmap and torch.compile.
"""
