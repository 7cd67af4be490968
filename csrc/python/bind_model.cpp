// `_core.read_model_file` and what it returns: a checked model file, read-only.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>
#include <string>

#include "binding/gil.h"
#include "model/file_format.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace whisperq::python {
namespace {

using whisperq::model::Hparams;
using whisperq::model::ModelFile;
using whisperq::model::TensorInfo;

// Tokens are bytes: a token may end in the middle of a character.
py::list vocabulary_list(const ModelFile& file) {
    py::list tokens(file.vocabulary.size());
    for (size_t i = 0; i < file.vocabulary.size(); ++i) tokens[i] = py::bytes(file.vocabulary[i]);
    return tokens;
}

}  // namespace

py::dict hparams_dict(const Hparams& hparams) {
    py::dict dict;
    dict["n_mels"] = hparams.n_mels;
    dict["n_audio_ctx"] = hparams.n_audio_ctx;
    dict["n_audio_state"] = hparams.n_audio_state;
    dict["n_audio_head"] = hparams.n_audio_head;
    dict["n_audio_layer"] = hparams.n_audio_layer;
    dict["n_text_ctx"] = hparams.n_text_ctx;
    dict["n_text_state"] = hparams.n_text_state;
    dict["n_text_head"] = hparams.n_text_head;
    dict["n_text_layer"] = hparams.n_text_layer;
    dict["n_vocab"] = hparams.n_vocab;
    return dict;
}

void bind_model(py::module_& m) {
    py::class_<TensorInfo>(m, "TensorInfo")
        .def_readonly("name", &TensorInfo::name)
        .def_property_readonly("type", [](const TensorInfo& tensor) { return tensor.type->name; })
        .def_property_readonly("dims", [](const TensorInfo& tensor) { return py::tuple(py::cast(tensor.dims)); })
        .def_property_readonly("n_values", &TensorInfo::n_values)
        .def_readonly("offset", &TensorInfo::offset)
        .def_readonly("n_bytes", &TensorInfo::n_bytes);

    py::class_<ModelFile>(m, "ModelFile")
        .def_property_readonly("path", [](const ModelFile& file) { return py::str(py::cast(file.path)); })
        .def_readonly("file_bytes", &ModelFile::file_bytes)
        .def_property_readonly("hparams", [](const ModelFile& file) { return hparams_dict(file.hparams); })
        .def_property_readonly("ftype", [](const ModelFile& file) { return file.ftype_name(); })
        .def_readonly("quantization_version", &ModelFile::quantization_version)
        .def_readonly("n_mel", &ModelFile::n_mel)
        .def_readonly("n_fft", &ModelFile::n_fft)
        .def_readonly("mel_filters_offset", &ModelFile::mel_filters_offset)
        .def_readonly("vocabulary_offset", &ModelFile::vocabulary_offset)
        .def_property_readonly("n_tokens", [](const ModelFile& file) { return file.vocabulary.size(); })
        .def_property_readonly("vocabulary", &vocabulary_list)
        .def_property_readonly("is_multilingual", &ModelFile::is_multilingual)
        .def_property_readonly("n_languages", &ModelFile::n_languages)
        .def_readonly("tensors", &ModelFile::tensors);

    m.def("read_model_file", &whisperq::model::read_model_file, py::arg("path"),
          py::call_guard<binding::GilReleased>());
}

}  // namespace whisperq::python
