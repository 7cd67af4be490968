// `_core.self_test`: whether everything that is chosen by instruction set is right on this CPU.
#include <pybind11/pybind11.h>

#include <string>

#include "audio/mel_self_test.h"
#include "binding/gil.h"
#include "core/clock.h"
#include "decoding/row_math_self_test.h"
#include "dispatch/isas.h"
#include "kernels/self_test.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace whisperq::python {
namespace {

py::dict self_test(const std::string& isa, const std::string& fault) {
    const dispatch::Isa& tested = dispatch::isa_named(isa);
    Findings findings(fault);
    const int64_t began_us = now_us();
    {
        const binding::GilReleased released;
        kernels::self_test(tested.kernels, findings);
        decoding::self_test(tested.row_math, findings);
        audio::self_test(tested.mel_frames, findings);
    }
    py::dict result;
    result["isa"] = tested.name();
    result["ms"] = static_cast<double>(now_us() - began_us) / 1000;
    result["n_compared"] = findings.count();
    result["failure"] = py::none();
    if (findings.first()) {
        const Finding& first = *findings.first();
        py::dict failure;
        failure["kernel"] = first.kernel;
        failure["where"] = first.where;
        failure["index"] = first.index;
        failure["got"] = first.got;
        failure["expected"] = first.expected;
        failure["tolerance"] = first.tolerance;
        result["failure"] = failure;
    }
    return result;
}

}  // namespace

void bind_self_test(py::module_& m) {
    m.def("self_test", &self_test, py::arg("isa"), py::arg("fault") = "",
          "Known answers of everything that runs under an ISA's name. `fault` names a kernel whose results count as "
          "wrong, for tests of what follows.");
}

}  // namespace whisperq::python
