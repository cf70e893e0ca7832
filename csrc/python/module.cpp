// SPDX-License-Identifier: Apache-2.0
// fastreid_ops._C: what was built, for what, and which instruction set runs. Holds no tensor op itself:
// loading it registers those of the x_ops.cpp files linked into it with torch, which is why torch must be
// imported first.
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <string>

#include "common/isa.h"

namespace py = pybind11;

// Read from the file's bytes where the library does not load, to say which torch it wants (_library.py).
extern "C" __attribute__((used)) const char fastreid_built_with[] =
    "fastreid-ops built with torch " FASTREID_TORCH_VERSION;

namespace {

py::object text_or_none(const char* text) {
  return *text ? py::object(py::str(text)) : py::object(py::none());
}

fastreid::Isa parse(const std::string& name, const char* where) {
  fastreid::Isa isa;
  if (!fastreid::parse_isa(name.c_str(), &isa)) {
    throw py::value_error(std::string(where) + ": got '" + name +
                          "', expected baseline, avx2, avx512 or avx512_bf16");
  }
  return isa;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  if (const char* name = std::getenv("FASTREID_ISA")) parse(name, "FASTREID_ISA");

  m.attr("version") = FASTREID_VERSION;
  m.attr("torch_version") = FASTREID_TORCH_VERSION;
  m.attr("cuda_version") = text_or_none(FASTREID_CUDA_VERSION);
  m.attr("cuda_arch_list") = FASTREID_CUDA_ARCH_LIST;
  m.attr("compiler") = FASTREID_COMPILER;

  py::enum_<fastreid::Isa>(m, "Isa")
      .value("baseline", fastreid::Isa::baseline)
      .value("avx2", fastreid::Isa::avx2)
      .value("avx512", fastreid::Isa::avx512)
      .value("avx512_bf16", fastreid::Isa::avx512_bf16);
  m.def("best_isa", &fastreid::best_isa,
        "The widest instruction set that this processor and this build support.");
  m.def("active_isa", &fastreid::active_isa, "The instruction set the CPU kernels run with.");
  m.def(
      "set_isa",
      [](const std::string& name) {
        const fastreid::Isa isa = parse(name, "set_isa: name");
        if (!fastreid::set_isa(isa)) {
          throw py::value_error("set_isa: name: got '" + name + "', expected at most '" +
                                fastreid::isa_name(fastreid::best_isa()) + "', the best this processor has");
        }
      },
      py::arg("name"),
      "Runs the CPU kernels with 'baseline', 'avx2', 'avx512' or 'avx512_bf16' from now on.");
}
