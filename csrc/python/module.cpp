// The extension `whisperq_edge._core`: our own code, baseline ISA, no ggml inside.
#include "binding/errors.h"
#include "python/bindings.h"

PYBIND11_MODULE(_core, m) {
    using namespace whisperq::python;
    m.attr("__version__") = WHISPERQ_VERSION;
    whisperq::binding::register_errors();
    m.def("error_table", &whisperq::binding::error_table,
          "Python class for each C++ Status (for the test that none is missed).");
    bind_audio(m);
    bind_cpu(m);
    bind_edge(m);
    bind_activation_study(m);
    bind_model(m);
    bind_memory(m);
    bind_self_test(m);
    bind_decoding(m);
    bind_vad(m);
}
