#include "model/bounded_reader.h"

#include <cerrno>
#include <cstring>
#include <system_error>

#include "core/checked_math.h"
#include "core/status.h"

namespace whisperq::model {

namespace {

namespace fs = std::filesystem;

// A page: every tensor's header lies behind megabytes that are skipped, and what is read with it is thrown away.
constexpr size_t kBufferBytes = size_t{1} << 12;

std::string kind_of(fs::file_type type) {
    switch (type) {
        case fs::file_type::directory:
            return "a directory";
        case fs::file_type::fifo:
            return "a named pipe";
        case fs::file_type::socket:
            return "a socket";
        case fs::file_type::character:
            return "a character device";
        case fs::file_type::block:
            return "a block device";
        default:
            return "something that is no regular file";
    }
}

// Asked before opening, because opening a named pipe waits for its other end.
void require_regular_file(const fs::path& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (status.type() == fs::file_type::not_found) {
        throw Error(Status::model_not_found, path.u8string() + ": there is no such file. Check the path.");
    }
    if (status.type() == fs::file_type::none) {
        throw Error(Status::model_not_found, path.u8string() + ": cannot be reached: " + error.message() + ".");
    }
    if (status.type() != fs::file_type::regular) {
        throw ModelFormatError(path.u8string(), 0, "the path", kind_of(status.type()), "a regular file");
    }
}

uint32_t little_endian_u32(const unsigned char* bytes) noexcept {
    return uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 | uint32_t{bytes[3]} << 24;
}

}  // namespace

BoundedReader::BoundedReader(const fs::path& path) : path_(path), buffer_(kBufferBytes) {
    require_regular_file(path_);
    stream_.rdbuf()->pubsetbuf(buffer_.data(), static_cast<std::streamsize>(buffer_.size()));
    errno = 0;
    stream_.open(path_, std::ios::binary);
    if (!stream_) {
        const std::string reason = std::generic_category().message(errno);
        throw Error(Status::model_not_found,
                    path_.u8string() + ": cannot be opened: " + reason + ". Check the file's permissions.");
    }
    // Asked of the open stream, so that it is the size of this file even if the path now leads to another.
    stream_.seekg(0, std::ios::end);
    const std::streamoff end = stream_.tellg();
    stream_.seekg(0);
    if (!stream_ || end < 0) {
        throw Error(Status::model_not_found, path_.u8string() + ": cannot be read: its size is unknown.");
    }
    size_ = static_cast<uint64_t>(end);
}

void BoundedReader::require(uint64_t n_bytes, const std::string& field) const {
    if (n_bytes <= remaining()) return;
    fail(offset_, field, "cut off: " + std::to_string(remaining()) + " bytes are left in the file",
         std::to_string(n_bytes) + " bytes");
}

void BoundedReader::read(void* destination, uint64_t n_bytes, const std::string& field) {
    require(n_bytes, field);
    stream_.read(static_cast<char*>(destination), static_cast<std::streamsize>(n_bytes));
    if (!stream_) {
        fail(offset_, field, "unreadable: the file was shortened while it was read, or the disk failed",
             std::to_string(n_bytes) + " bytes");
    }
    offset_ += n_bytes;
}

void BoundedReader::skip(uint64_t n_bytes, const std::string& field) {
    require(n_bytes, field);
    offset_ += n_bytes;
    stream_.seekg(static_cast<std::streamoff>(offset_));
}

int32_t BoundedReader::read_i32(const std::string& field) {
    unsigned char bytes[4];
    read(bytes, sizeof bytes, field);
    const uint32_t bits = little_endian_u32(bytes);
    int32_t value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

std::string BoundedReader::read_string(uint64_t n_bytes, const std::string& field) {
    require(n_bytes, field);
    std::string bytes(static_cast<size_t>(n_bytes), '\0');
    read(bytes.data(), n_bytes, field);
    return bytes;
}

std::vector<float> BoundedReader::read_f32(uint64_t n_values, const std::string& field) {
    const std::optional<uint64_t> n_bytes = checked_multiply(n_values, sizeof(float));
    if (!n_bytes) fail(offset_, field, std::to_string(n_values) + " values", "what the file can hold");
    const std::string bytes = read_string(*n_bytes, field);
    std::vector<float> values(static_cast<size_t>(n_values));
    for (size_t i = 0; i < values.size(); ++i) {
        unsigned char raw[4];
        std::memcpy(raw, bytes.data() + 4 * i, sizeof raw);
        const uint32_t bits = little_endian_u32(raw);
        std::memcpy(&values[i], &bits, sizeof bits);
    }
    return values;
}

void BoundedReader::fail(uint64_t offset, const std::string& field, const std::string& value,
                         const std::string& allowed) const {
    throw ModelFormatError(path_.u8string(), offset, field, value, allowed);
}

std::string quoted(const std::string& bytes) {
    constexpr size_t kLongest = 64;
    constexpr char kDigits[] = "0123456789abcdef";
    std::string text = "\"";
    for (size_t i = 0; i < bytes.size() && i < kLongest; ++i) {
        const auto byte = static_cast<unsigned char>(bytes[i]);
        if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\') {
            text += bytes[i];
        } else {
            text += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
        }
    }
    return text + (bytes.size() > kLongest ? "...\"" : "\"");
}

}  // namespace whisperq::model
