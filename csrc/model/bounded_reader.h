// Reads a file from outside: every read is checked against the bytes that are there, and a failure says where it was.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace whisperq::model {

// Buffered reads rather than a memory map: a mapped file that another process truncates kills this one with SIGBUS.
class BoundedReader {
  public:
    // Throws Error(Status::model_not_found) when nothing can be opened there and ModelFormatError when it is no file.
    explicit BoundedReader(const std::filesystem::path& path);

    uint64_t size() const noexcept { return size_; }
    uint64_t offset() const noexcept { return offset_; }
    uint64_t remaining() const noexcept { return size_ - offset_; }

    // `field` names what is read, for the error when the file ends before it.
    void read(void* destination, uint64_t n_bytes, const std::string& field);
    void skip(uint64_t n_bytes, const std::string& field);
    int32_t read_i32(const std::string& field);
    std::string read_string(uint64_t n_bytes, const std::string& field);
    std::vector<float> read_f32(uint64_t n_values, const std::string& field);

    // Throws ModelFormatError for this file.
    [[noreturn]] void fail(uint64_t offset, const std::string& field, const std::string& value,
                           const std::string& allowed) const;

  private:
    void require(uint64_t n_bytes, const std::string& field) const;

    std::filesystem::path path_;
    std::vector<char> buffer_;  // outlives stream_, which reads through it
    std::ifstream stream_;
    uint64_t size_ = 0;
    uint64_t offset_ = 0;
};

// Bytes from a file as one line of ASCII for a message: quoted, escaped, shortened.
std::string quoted(const std::string& bytes);

}  // namespace whisperq::model
