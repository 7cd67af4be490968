// Fuzzes the reader of ggml model files (csrc/model/file_format.h).
//
// A model file is some MB, of which the reader looks at the header, the mel filters, the vocabulary and the headers of
// the tensors; the weights are skipped. So an input of some bytes becomes such a file: a whole model in which weights,
// filters and tokens are holes, changed by the edits that the input lists (README.md has the layout of an input). To
// read the 50 thousand tokens that every file must have takes 25 ms with the sanitizers on, so most inputs are only a
// file's head or its table of tensors.
#include "model/file_format.cpp"  // as part of this: the table of tensors is also read alone

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "core/status.h"

namespace {

using namespace whisperq::model;

// What the sanitizers cannot see: an answer that breaks what the reader promises.
void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "broken promise of the reader: %s\n", what);
    std::abort();
}

// ---- Files ----------------------------------------------------------------------------------------------------------

// Bytes, and a hole (zeros that take no memory) after them.
struct Piece {
    std::string bytes;
    uint64_t hole = 0;
};

uint64_t size_of(const std::vector<Piece>& pieces) {
    uint64_t size = 0;
    for (const Piece& piece : pieces) size += piece.bytes.size() + piece.hole;
    return size;
}

// One file in memory that every input overwrites.
class MemoryFile {
  public:
    MemoryFile() : descriptor_(memfd_create("model", 0)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {
        require(descriptor_ >= 0, "memfd_create (of the harness)");
    }

    const std::string& path() const noexcept { return path_; }

    void write(const std::vector<Piece>& pieces) {
        const auto size = static_cast<off_t>(size_of(pieces));
        require(ftruncate(descriptor_, 0) == 0 && ftruncate(descriptor_, size) == 0, "ftruncate (of the harness)");
        off_t at = 0;
        for (const Piece& piece : pieces) {
            const auto n_bytes = static_cast<ssize_t>(piece.bytes.size());
            require(pwrite(descriptor_, piece.bytes.data(), piece.bytes.size(), at) == n_bytes,
                    "pwrite (of the harness)");
            at += static_cast<off_t>(piece.bytes.size() + piece.hole);
        }
    }

  private:
    int descriptor_;
    std::string path_;
};

// ---- Whole models to start from -------------------------------------------------------------------------------------

struct Base {
    Hparams hparams;
    const TensorType* matrix_type;  // nullptr: mixed
    std::vector<Piece> pieces;
    size_t first_tensor;  // its piece; those before have what stands before the tensors
};

void put_i32(std::string& bytes, int32_t value) {
    char raw[sizeof value];
    std::memcpy(raw, &value, sizeof value);  // little endian, as every machine with libFuzzer
    bytes.append(raw, sizeof raw);
}

Hparams small_hparams(int32_t n_vocab, int32_t n_state, int32_t n_layer, int32_t n_mels) {
    const int32_t n_head = n_state / 64;
    return {n_mels, 24, n_state, n_head, n_layer, 16, n_state, n_head, n_layer, n_vocab};
}

std::string header_of(const Hparams& h, const TensorType* matrix_type) {
    std::string bytes = "lmgg";
    for (const int32_t value : {h.n_vocab, h.n_audio_ctx, h.n_audio_state, h.n_audio_head, h.n_audio_layer,
                                h.n_text_ctx, h.n_text_state, h.n_text_head, h.n_text_layer, h.n_mels}) {
        put_i32(bytes, value);
    }
    const bool has_version = matrix_type == nullptr || matrix_type->is_quantized();
    put_i32(bytes, (has_version ? 2000 : 0) + (matrix_type == nullptr ? kMixedFtype : matrix_type->ftype));
    put_i32(bytes, h.n_mels);
    put_i32(bytes, 201);
    return bytes;
}

Piece tensor_piece(const TensorSpec& spec, const TensorType& type) {
    Piece piece;
    for (const size_t value : {spec.dims.size(), spec.name.size(), static_cast<size_t>(type.ggml_id)}) {
        put_i32(piece.bytes, static_cast<int32_t>(value));
    }
    uint64_t n_rows = 1;
    for (size_t i = 0; i < spec.dims.size(); ++i) {
        put_i32(piece.bytes, spec.dims[i]);
        if (i > 0) n_rows *= static_cast<uint64_t>(spec.dims[i]);
    }
    piece.bytes += spec.name;
    piece.hole = tensor_bytes(type, static_cast<uint64_t>(spec.dims[0]), n_rows).value();
    return piece;
}

Base make_base(const Hparams& hparams, const TensorType* matrix_type) {
    Base base{hparams, matrix_type, {}, 0};
    base.pieces.push_back({header_of(hparams, matrix_type), uint64_t{4} * 201 * static_cast<uint64_t>(hparams.n_mels)});
    constexpr int32_t kTokens = 50257;
    constexpr uint64_t kTokensToChange = 4;  // the others have no bytes: their lengths are a hole
    Piece vocabulary;
    put_i32(vocabulary.bytes, kTokens);
    vocabulary.bytes.append(kTokensToChange * 4, '\0');
    vocabulary.hole = (kTokens - kTokensToChange) * 4;
    base.pieces.push_back(vocabulary);
    base.first_tensor = base.pieces.size();
    size_t position = 0;
    for (const TensorSpec& spec : whisper_tensors(hparams, matrix_type)) {
        const TensorType* type = spec.type ? spec.type : &kTensorTypes[position++ % kTensorTypes.size()];
        if (static_cast<uint32_t>(spec.dims[0]) % type->block_size != 0) type = find_tensor_type("f16");
        base.pieces.push_back(tensor_piece(spec, *type));
    }
    return base;
}

const std::vector<Base>& bases() {
    static const std::vector<Base> all = {
        make_base(small_hparams(51864, 64, 1, 80), find_tensor_type("f16")),
        make_base(small_hparams(51865, 64, 2, 80), find_tensor_type("q5_0")),
        make_base(small_hparams(51866, 256, 1, 128), nullptr),
        make_base(small_hparams(51865, 64, 1, 80), find_tensor_type("f32")),
        make_base(small_hparams(51864, 256, 1, 80), find_tensor_type("q3_k")),
    };
    return all;
}

// ---- Inputs ---------------------------------------------------------------------------------------------------------

// Takes numbers from the front of an input; zeros when it is at its end.
class Input {
  public:
    Input(const uint8_t* data, size_t size) : data_(data), left_(size) {}

    size_t left() const noexcept { return left_; }

    uint32_t number(size_t n_bytes) {
        uint32_t value = 0;
        const std::string bytes = take(n_bytes);
        for (size_t i = 0; i < bytes.size(); ++i) value |= uint32_t{static_cast<uint8_t>(bytes[i])} << 8 * i;
        return value;
    }

    std::string take(size_t n_bytes) {
        n_bytes = std::min(n_bytes, left_);
        std::string bytes(reinterpret_cast<const char*>(data_), n_bytes);
        data_ += n_bytes;
        left_ -= n_bytes;
        return bytes;
    }

  private:
    const uint8_t* data_;
    size_t left_;
};

constexpr size_t kMostEdits = 32;
constexpr size_t kMostPieces = 256;

uint64_t number_of(const std::string& bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < std::min<size_t>(bytes.size(), 5); ++i) {
        value |= uint64_t{static_cast<uint8_t>(bytes[i])} << 8 * i;
    }
    return value;
}

// Makes one edit. tests/fuzz/pieces.py has the same ones.
void edit(std::vector<Piece>& pieces, uint32_t operation, size_t index, size_t offset, const std::string& bytes) {
    Piece& piece = pieces[index % pieces.size()];
    const auto place = pieces.begin() + static_cast<std::ptrdiff_t>(index % pieces.size());
    const size_t at = std::min(offset, piece.bytes.size());
    switch (operation % 8) {
        case 0:
            piece.bytes.replace(at, std::min(bytes.size(), piece.bytes.size() - at), bytes);
            break;
        case 1:
            piece.bytes.insert(at, bytes);
            break;
        case 2:
            piece.bytes.erase(at, bytes.size());
            break;
        case 3:
            piece.hole = number_of(bytes);
            break;
        case 4:
            if (pieces.size() > 1) pieces.erase(place);
            break;
        case 5:
            if (pieces.size() < kMostPieces) pieces.insert(place, Piece(piece));
            break;
        case 6:
            std::swap(piece, pieces[offset % pieces.size()]);
            break;
        case 7:
            piece.bytes.resize(at);
            piece.hole = 0;
            pieces.erase(place + 1, pieces.end());
            break;
    }
}

void edit_all(std::vector<Piece>& pieces, Input& input) {
    for (size_t i = 0; i < kMostEdits && input.left() > 0; ++i) {
        const uint32_t operation = input.number(1);
        const size_t index = input.number(1), offset = input.number(2), n_bytes = input.number(1);
        edit(pieces, operation, index, offset, input.take(n_bytes));
    }
}

// ---- Promises -------------------------------------------------------------------------------------------------------

void check_tensors(const std::vector<TensorInfo>& tensors, const Hparams& hparams, const TensorType* matrix_type,
                   uint64_t file_bytes) {
    require(tensors.size() == whisper_tensors(hparams, matrix_type).size(), "every tensor of the architecture");
    uint64_t end = 0;
    std::set<std::string> names;
    for (const TensorInfo& tensor : tensors) {
        require(tensor.type != nullptr && names.insert(tensor.name).second, "each tensor once, with a type");
        require(tensor.offset >= end && tensor.n_bytes <= file_bytes, "tensors one after the other");
        end = tensor.offset + tensor.n_bytes;
    }
    require(end == file_bytes, "the last tensor ends where the file does");
}

void check_model(const ModelFile& file) {
    require(file.vocabulary.size() >= 50256, "a vocabulary");
    require(file.vocabulary.size() <= static_cast<size_t>(file.hparams.n_vocab), "no more tokens than n_vocab");
    for (const float weight : file.mel_filters) require(std::isfinite(weight), "finite mel filters");
    check_tensors(file.tensors, file.hparams, file.matrix_type, file.file_bytes);
}

void check_error(const whisperq::ModelFormatError& error, uint64_t file_bytes) {
    require(error.offset() <= file_bytes, "an error within the file");
    require(!error.field().empty() && !error.value().empty() && !error.allowed().empty(), "an error that says all");
    const std::string message = error.what();
    require(message.size() < 2000, "a message that is no page");
    for (const char c : message) require(c >= 0x20 && c < 0x7f, "a message of printable ASCII");
}

// Whether the file is a model. What is neither that nor a ModelFormatError goes through and ends the process.
bool is_read(MemoryFile& file, const std::vector<Piece>& pieces) {
    file.write(pieces);
    try {
        check_model(read_model_file(file.path()));
        return true;
    } catch (const whisperq::ModelFormatError& error) {
        check_error(error, size_of(pieces));
        return false;
    }
}

bool is_table_read(MemoryFile& file, const std::vector<Piece>& pieces, const Base& base) {
    file.write(pieces);
    try {
        BoundedReader in(file.path());
        check_tensors(TensorTable(base.hparams, base.matrix_type).read(in), base.hparams, base.matrix_type,
                      size_of(pieces));
        return true;
    } catch (const whisperq::ModelFormatError& error) {
        check_error(error, size_of(pieces));
        return false;
    }
}

// What stands before the tensors, without the many tokens that make a whole file slow to read.
std::vector<Piece> head_of(const Base& base) {
    std::vector<Piece> pieces(base.pieces.begin(),
                              base.pieces.begin() + static_cast<std::ptrdiff_t>(base.first_tensor));
    pieces.back().hole = 64;
    return pieces;
}

std::vector<Piece> tensors_of(const Base& base) {
    return {base.pieces.begin() + static_cast<std::ptrdiff_t>(base.first_tensor), base.pieces.end()};
}

MemoryFile& memory_file() {
    static MemoryFile file;
    return file;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    for (const Base& base : bases()) {  // or nothing would reach what comes after a whole file
        require(is_read(memory_file(), base.pieces), "the whole models of the harness");
        require(is_table_read(memory_file(), tensors_of(base), base), "the whole tables of the harness");
    }
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input(data, size);
    const uint32_t kind = input.number(1);
    if (kind == 'R') {
        is_read(memory_file(), {{input.take(input.left()), 0}});
        return 0;
    }
    const Base& base = bases()[input.number(1) % bases().size()];
    std::vector<Piece> pieces = kind == 'W' ? base.pieces : kind == 'H' ? head_of(base) : tensors_of(base);
    edit_all(pieces, input);
    if (kind == 'W' || kind == 'H') {
        is_read(memory_file(), pieces);
    } else {
        is_table_read(memory_file(), pieces, base);
    }
    return 0;
}
