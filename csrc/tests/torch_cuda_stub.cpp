// SPDX-License-Identifier: Apache-2.0
// Stands in for libtorch_cuda.so where the installed torch is a CPU build, so that _cuda.so links (under -z
// defs, with the right DT_NEEDED) and its registrations load and are checked on a machine without a GPU.
// Never installed. These are all the CUDA symbols that the stable headers leave undefined at
// TORCH_TARGET_VERSION 2.11.
#include <cstdint>

extern "C" {

__attribute__((visibility("default"))) int32_t aoti_torch_get_current_cuda_stream(int32_t /*device*/,
                                                                                  void** stream) {
  *stream = nullptr;
  return 0;
}

__attribute__((visibility("default"))) int32_t
torch_c10_cuda_check_msg(int32_t /*error*/, const char* /*file*/, const char* /*function*/, uint32_t /*line*/,
                         bool /*synchronous*/, char** message) {
  *message = nullptr;
  return 0;
}

__attribute__((visibility("default"))) void torch_c10_cuda_free_error_msg(char* /*message*/) {}
}
