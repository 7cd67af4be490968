// Translation of C++ errors into the Python error tree; both extension modules use it.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "core/status.h"

namespace whisperq::binding {

// Registers the translator for `whisperq::Error` with the module that is being imported.
void register_errors();

// Name of the class in whisperq_edge._errors (or builtins) for every Status, in the order of the enum.
pybind11::dict error_table();

// Raises OptionError: `field` has a value that is not allowed; `allowed` says what is.
[[noreturn]] void refuse_option(const char* field, const pybind11::handle& value, const std::string& allowed);

}  // namespace whisperq::binding
