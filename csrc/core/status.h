// One Status per leaf of the Python error tree (python/whisperq_edge/_errors.py) and the exception that carries it.
// csrc/binding/errors.cpp holds the one table that translates them; a test proves that none is missed.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <utility>

namespace whisperq {

enum class Status {
    argument,  // a value that the caller may not give; broken promises of our own code are `internal`
    audio,
    model_not_found,
    model_format,
    unsupported_model,
    unknown_isa,
    isa_not_built,
    isa_not_supported,
    inference,
    internal,
    out_of_memory,
};
inline constexpr int kStatusCount = static_cast<int>(Status::out_of_memory) + 1;

// Thrown by everything above the kernels; `what()` is whole and readable on its own.
class Error : public std::exception {
  public:
    Error(Status status, std::string message) : status_(status), message_(std::move(message)) {}
    const char* what() const noexcept override { return message_.c_str(); }
    Status status() const noexcept { return status_; }

  private:
    Status status_;
    std::string message_;
};

// A model file that is not what it says: where, which field, what stood there, what may stand there.
class ModelFormatError : public Error {
  public:
    ModelFormatError(std::string path, uint64_t offset, std::string field, std::string value, std::string allowed)
        : Error(Status::model_format,
                path + ": at byte " + std::to_string(offset) + ": " + field + " is " + value + "; allowed: " + allowed),
          path_(std::move(path)),
          field_(std::move(field)),
          value_(std::move(value)),
          allowed_(std::move(allowed)),
          offset_(offset) {}
    const std::string& path() const noexcept { return path_; }
    const std::string& field() const noexcept { return field_; }
    const std::string& value() const noexcept { return value_; }
    const std::string& allowed() const noexcept { return allowed_; }
    uint64_t offset() const noexcept { return offset_; }

  private:
    std::string path_, field_, value_, allowed_;
    uint64_t offset_;
};

}  // namespace whisperq
