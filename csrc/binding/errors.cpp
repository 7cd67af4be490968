#include "binding/errors.h"

namespace py = pybind11;

namespace whisperq::binding {
namespace {

struct Row {
    Status status;
    const char* status_name;
    const char* python_class;
    const char* python_module = "whisperq_edge._errors";
};

constexpr Row kTable[] = {
    {Status::argument, "argument", "ValueError", "builtins"},
    {Status::audio, "audio", "AudioError"},
    {Status::model_not_found, "model_not_found", "ModelNotFoundError"},
    {Status::model_format, "model_format", "ModelFormatError"},
    {Status::unsupported_model, "unsupported_model", "UnsupportedModelError"},
    {Status::unknown_isa, "unknown_isa", "UnknownIsaError"},
    {Status::isa_not_built, "isa_not_built", "IsaNotBuiltError"},
    {Status::isa_not_supported, "isa_not_supported", "IsaNotSupportedError"},
    {Status::inference, "inference", "InferenceError"},
    {Status::internal, "internal", "InternalError"},
    {Status::out_of_memory, "out_of_memory", "MemoryError", "builtins"},
};
static_assert(sizeof kTable / sizeof kTable[0] == kStatusCount, "every Status has its row");

py::object class_for(Status status) {
    for (const Row& row : kTable) {
        if (row.status == status) return py::module_::import(row.python_module).attr(row.python_class);
    }
    return py::module_::import("whisperq_edge._errors").attr("InternalError");
}

void raise(const py::object& cls, const py::object& instance) {
    PyErr_SetObject(cls.ptr(), instance.ptr());
}

void translate(std::exception_ptr pending) {
    try {
        if (pending) std::rethrow_exception(pending);
    } catch (const ModelFormatError& e) {
        const py::object cls = class_for(e.status());
        raise(cls, cls(e.path(), e.offset(), e.field(), e.value(), e.allowed()));
    } catch (const Error& e) {
        const py::object cls = class_for(e.status());
        raise(cls, cls(e.what()));
    }
}

}  // namespace

void register_errors() {
    py::register_local_exception_translator(&translate);
}

py::dict error_table() {
    py::dict table;
    for (const Row& row : kTable) table[row.status_name] = row.python_class;
    return table;
}

void refuse_option(const char* field, const py::handle& value, const std::string& allowed) {
    const py::object cls = py::module_::import("whisperq_edge._errors").attr("OptionError");
    raise(cls, cls(field, value, allowed));
    throw py::error_already_set();
}

}  // namespace whisperq::binding
