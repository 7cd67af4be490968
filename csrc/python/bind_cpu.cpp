#include <pybind11/stl.h>

#include "core/clock.h"
#include "core/cpu_count.h"
#include "core/cpu_features.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace whisperq::python {

void bind_cpu(py::module_& m) {
    m.def("now_us", &now_us, "Microseconds of a monotonic clock with an arbitrary zero.");
    m.def("usable_cpus", &usable_cpus, "CPUs that affinity and cgroup quota leave to this process; at least 1.");
    m.def("cpu_quota", &cpu_quota, "The CPU quota of this process's cgroup, in CPUs; 0: none.");
    m.def("cpu_name", &cpu_name);
    m.def("cpu_family", &cpu_family);
    m.def(
        "cpu_features",
        [] {
            py::dict found;
            for (const CpuFeature& feature : cpu_features()) found[feature.name] = feature.found;
            return found;
        },
        "Every CPU feature known for this family, and whether CPU and OS both offer it.");
}

}  // namespace whisperq::python
