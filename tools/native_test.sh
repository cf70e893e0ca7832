#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs the C++ tests (kernels and emulated CUDA) three times: plain, ASan+UBSan, TSan. Needs cmake, ninja, g++.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
for sanitizer in "" address thread; do
    build="build/native-${sanitizer:-plain}"
    echo "== ctest: ${sanitizer:-plain}"
    cmake -S . -B "$build" -G Ninja -DFASTREID_TESTS=ON -DFASTREID_SANITIZE="$sanitizer" >"$build.log" 2>&1 \
        || { cat "$build.log"; exit 1; }
    cmake --build "$build" >>"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
    ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)"
done
