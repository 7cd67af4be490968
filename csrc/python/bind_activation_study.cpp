// `_core.EdgeModel.round_activations` and what belongs to it: measurements of what int8 activations would cost.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "binding/errors.h"
#include "binding/gil.h"
#include "edge/activation_study.h"
#include "python/bindings.h"
#include "python/edge_model.h"

namespace py = pybind11;

namespace whisperq::python {
namespace {

using edge::ActivationRounding;
using edge::ActivationScheme;

struct NamedScheme {
    const char* name;
    ActivationScheme scheme;
};
constexpr NamedScheme kSchemes[] = {
    {"float", ActivationScheme::none},  {"observe", ActivationScheme::observe}, {"tensor", ActivationScheme::tensor},
    {"token", ActivationScheme::token}, {"block", ActivationScheme::block},     {"static", ActivationScheme::fixed},
};

ActivationScheme scheme_named(const std::string& name) {
    std::string names;
    for (const NamedScheme& row : kSchemes) {
        if (name == row.name) return row.scheme;
        names += (names.empty() ? "" : ", ") + std::string(row.name);
    }
    binding::refuse_option("scheme", py::str(name), "one of " + names);
}

std::vector<std::string> linear_names(const EdgeModel& model) {
    std::vector<std::string> names;
    for (const edge::Linear* linear : model.model.linears()) names.push_back(linear->name);
    return names;
}

std::set<std::string> names_in(const py::object& only, const std::vector<std::string>& known) {
    std::set<std::string> names;
    for (const py::handle item : py::list(only)) {
        const bool is_known = py::isinstance<py::str>(item) &&
                              std::find(known.begin(), known.end(), item.cast<std::string>()) != known.end();
        if (!is_known) binding::refuse_option("only", item, "tensor names that EdgeModel.linears lists");
        names.insert(item.cast<std::string>());
    }
    return names;
}

[[noreturn]] void refuse_range(const py::handle& name, const py::handle& value) {
    binding::refuse_option(
        "ranges", py::make_tuple(name, value),
        "for scheme='static' a finite number from 0, the largest |x|, for the name of each linear that is "
        "rounded; activation_ranges() gives them after scheme='observe' and some audio");
}

// NaN where it is no number.
float float_of(const py::handle& value) {
    try {
        return value.cast<float>();
    } catch (const py::cast_error&) {
        return std::nanf("");
    }
}

std::map<std::string, float> ranges_in(const py::object& ranges) {
    std::map<std::string, float> found;
    for (const auto& [name, value] : py::dict(ranges)) {
        const float range = float_of(value);
        if (!py::isinstance<py::str>(name) || !std::isfinite(range) || range < 0.0f) refuse_range(name, value);
        found[name.cast<std::string>()] = range;
    }
    return found;
}

void check_static(const EdgeModel& model, const ActivationRounding& rounding) {
    if (!rounding.symmetric) binding::refuse_option("symmetric", py::bool_(false), "True where scheme='static'");
    for (const edge::Linear* linear : edge::chosen_linears(model.model.linears(), rounding)) {
        if (rounding.ranges.count(linear->name) == 0) refuse_range(py::str(linear->name), py::none());
    }
}

void round_activations(EdgeModel& model, const std::string& scheme, int64_t block, const py::object& ranges,
                       const py::object& only, bool symmetric) {
    ActivationRounding rounding;
    rounding.scheme = scheme_named(scheme);
    rounding.block = block;
    rounding.symmetric = symmetric;
    if (block < 1) binding::refuse_option("block", py::int_(block), "1 or more values");
    if (!only.is_none()) rounding.only = names_in(only, linear_names(model));
    if (!ranges.is_none()) rounding.ranges = ranges_in(ranges);
    if (rounding.scheme == ActivationScheme::fixed) check_static(model, rounding);
    const binding::GilReleased released;
    model.model.round_activations(std::move(rounding));
}

std::map<std::string, float> activation_ranges(EdgeModel& model) {
    const binding::GilReleased released;
    return model.model.activation_ranges();
}

}  // namespace

void bind_activation_study(py::module_& m) {
    py::class_<EdgeModel> model = m.attr("EdgeModel");
    model.def_property_readonly("linears", &linear_names)
        .def("round_activations", &round_activations, py::arg("scheme"), py::arg("block") = 32,
             py::arg("ranges") = py::none(), py::arg("only") = py::none(), py::arg("symmetric") = true,
             "Rounds the inputs of linears to int8 codes and back, from the next call on.")
        .def("activation_ranges", &activation_ranges,
             "The largest |x| of each linear's inputs since scheme='observe' was asked for.");
}

}  // namespace whisperq::python
