#include "model/file_format.h"

#include <algorithm>
#include <initializer_list>
#include <unordered_map>
#include <utility>

#include "model/bounded_reader.h"

namespace whisperq::model {

namespace {

// ---- What a file that is no ggml model looks like -----------------------------------------------------------------

constexpr std::string_view kGgmlMagic = "lmgg";  // 0x67676d6c in little-endian order

struct Lookalike {
    size_t offset;
    std::string_view bytes;
    const char* what;
};

constexpr size_t kLongestSignature = 16;

constexpr Lookalike kLookalikes[] = {
    {0, "GGUF", "GGUF, the file format of llama.cpp"},
    {0, std::string_view("PK\x03\x04", 4), "a zip archive (a PyTorch .pt?)"},
    {0, "\x80\x02", "a Python pickle (an old PyTorch .pt?)"},
    {8, "{\"", "a safetensors file"},
    {0, "ggml", "a ggml file with big-endian numbers"},
    {0, "tjgg", "ggjt, an old file format of llama.cpp"},
    {0, "\x1f\x8b", "a gzip archive"},
    {0, "\x89HDF", "an HDF5 file"},
    {0, std::string_view("\x06\x00\x00\x00", 4), "a CTranslate2 model"},
    {0, "version https://", "a Git LFS pointer instead of the file itself"},
    {0, "<!", "a web page"},
    {0, "<html", "a web page"},
    {0, "RIFF", "a RIFF file (WAV audio?)"},
};

std::string describe_start(const std::string& start) {
    if (start.empty()) return "missing: the file is empty";
    for (const Lookalike& lookalike : kLookalikes) {
        if (start.size() < lookalike.offset) continue;
        if (start.compare(lookalike.offset, lookalike.bytes.size(), lookalike.bytes) == 0) return lookalike.what;
    }
    return quoted(start.substr(0, 4));
}

void check_magic(BoundedReader& in) {
    std::string start = in.read_string(std::min<uint64_t>(in.size(), kGgmlMagic.size()), "magic");
    if (start == kGgmlMagic) return;
    start += in.read_string(std::min<uint64_t>(in.remaining(), kLongestSignature - start.size()), "magic");
    in.fail(0, "magic", describe_start(start), quoted(std::string(kGgmlMagic)) + ", the start of a ggml file");
}

// ---- Numbers with a range -----------------------------------------------------------------------------------------

std::string one_of(std::initializer_list<int32_t> values) {
    std::string list;
    for (const int32_t value : values) list += (list.empty() ? "" : ", ") + std::to_string(value);
    return list;
}

int32_t read_in_range(BoundedReader& in, const std::string& field, int32_t least, int32_t most) {
    const uint64_t offset = in.offset();
    const int32_t value = in.read_i32(field);
    if (value < least || value > most) {
        in.fail(offset, field, std::to_string(value), std::to_string(least) + " to " + std::to_string(most));
    }
    return value;
}

int32_t read_one_of(BoundedReader& in, const std::string& field, std::initializer_list<int32_t> values) {
    const uint64_t offset = in.offset();
    const int32_t value = in.read_i32(field);
    if (std::find(values.begin(), values.end(), value) == values.end()) {
        in.fail(offset, field, std::to_string(value), one_of(values));
    }
    return value;
}

// ---- Dimensions ---------------------------------------------------------------------------------------------------

// Heads have 64 values in every Whisper model there is, which makes a wrong number of heads visible: nothing else in
// the file depends on it.
constexpr int32_t kHeadSize = 64;

// The limits keep every product that whisper.cpp forms in int32 (at most n_vocab * n_state and 4 * n_state^2) far below
// 2^31, and are well above the largest model there is (1280 states, 32 layers, 1500 and 448 positions).
constexpr int32_t kMostStates = 4096;
constexpr int32_t kMostLayers = 64;
constexpr int32_t kMostAudioCtx = 1500;  // a window of 30 s has no more audio tokens of 20 ms
constexpr int32_t kMostTextCtx = 4096;

int32_t read_audio_state(BoundedReader& in) {
    const uint64_t offset = in.offset();
    const int32_t n_state = in.read_i32("n_audio_state");
    if (n_state < kHeadSize || n_state > kMostStates || n_state % kHeadSize != 0) {
        in.fail(offset, "n_audio_state", std::to_string(n_state),
                "multiples of " + std::to_string(kHeadSize) + " up to " + std::to_string(kMostStates));
    }
    return n_state;
}

Hparams read_hparams(BoundedReader& in) {
    Hparams hparams;
    hparams.n_vocab = read_one_of(in, "n_vocab", {51864, 51865, 51866});
    hparams.n_audio_ctx = read_in_range(in, "n_audio_ctx", 1, kMostAudioCtx);
    hparams.n_audio_state = read_audio_state(in);
    hparams.n_audio_head = read_one_of(in, "n_audio_head", {hparams.n_audio_state / kHeadSize});
    hparams.n_audio_layer = read_in_range(in, "n_audio_layer", 1, kMostLayers);
    hparams.n_text_ctx = read_in_range(in, "n_text_ctx", 1, kMostTextCtx);
    hparams.n_text_state = read_one_of(in, "n_text_state", {hparams.n_audio_state});
    hparams.n_text_head = read_one_of(in, "n_text_head", {hparams.n_text_state / kHeadSize});
    hparams.n_text_layer = read_in_range(in, "n_text_layer", 1, kMostLayers);
    hparams.n_mels = read_one_of(in, "n_mels", {80, 128});
    return hparams;
}

// ---- The type of the file -----------------------------------------------------------------------------------------

struct FileType {
    const TensorType* matrix_type;  // nullptr: mixed
    int32_t version;
};

// Floats have no block layout that a version could change; older writers left it at 0.
bool is_known_version(const TensorType& type, int32_t version) noexcept {
    if (type.is_quantized()) return version == kQuantizationVersion;
    return version >= 0 && version <= kQuantizationVersion;
}

FileType read_file_type(BoundedReader& in, const Hparams& hparams) {
    const uint64_t offset = in.offset();
    const int32_t number = in.read_i32("ftype");
    const int32_t version = number / kQuantizationVersionFactor;
    if (number == kQuantizationVersion * kQuantizationVersionFactor + kMixedFtype) return {nullptr, version};
    const TensorType* type = find_tensor_type_by_ftype(number % kQuantizationVersionFactor);
    if (type == nullptr || !is_known_version(*type, version)) {
        in.fail(offset, "ftype", std::to_string(number),
                list_tensor_types(&TensorType::ftype) + "; a quantized type with 2000 added; 2004 (mixed)");
    }
    if (hparams.n_audio_state % static_cast<int32_t>(type->block_size) != 0) {
        in.fail(offset, "ftype", std::string(type->name),
                "a type whose blocks fit into rows of " + std::to_string(hparams.n_audio_state) + " values");
    }
    return {type, version};
}

// ---- Mel filters and vocabulary -----------------------------------------------------------------------------------

constexpr int32_t kFftBins = 201;  // of a 400-sample transform: 25 ms at 16 kHz

void read_mel_filters(BoundedReader& in, ModelFile& file) {
    file.n_mel = read_one_of(in, "mel filters n_mel", {file.hparams.n_mels});
    file.n_fft = read_one_of(in, "mel filters n_fft", {kFftBins});
    file.mel_filters_offset = in.offset();
    const auto n_values = static_cast<uint64_t>(file.n_mel) * static_cast<uint64_t>(file.n_fft);
    file.mel_filters = in.read_f32(n_values, "mel filters");

    for (size_t i = 0; i < file.mel_filters.size(); ++i) {
        const float weight = file.mel_filters[i];
        if (weight >= 0.0f && weight <= 1.0f) continue;  // false for NaN
        in.fail(file.mel_filters_offset + i * sizeof(float), "mel filters value " + std::to_string(i),
                std::to_string(weight), "a finite number from 0 to 1");
    }
}

// Text tokens of GPT-2's byte-pair encoding, which every Whisper vocabulary begins with. Converters differ in whether
// they also write the special tokens that follow.
constexpr int32_t kLeastTokens = 50256;
constexpr int32_t kLongestTokenBytes = 256;  // the longest in Whisper's vocabularies has 128

// Converters that go by the size alone write an English fine-tune with added tokens as a multilingual model: every
// language, task and time would be off by one. The English text has one token less, so its end gives it away.
void refuse_english_text(BoundedReader& in, const ModelFile& file, uint64_t offset) {
    constexpr int32_t kEnglishVocab = 51864;
    constexpr const char* kEndOfText = "<|endoftext|>";
    const auto end = static_cast<size_t>(kLeastTokens);
    if (file.hparams.n_vocab == kEnglishVocab || file.vocabulary.size() <= end) return;
    if (file.vocabulary[end] != kEndOfText) return;
    in.fail(offset, "token " + std::to_string(end),
            std::string(kEndOfText) + ", as in an English vocabulary, and n_vocab is " +
                std::to_string(file.hparams.n_vocab),
            "n_vocab " + std::to_string(kEnglishVocab) + " beside it (convert the fine-tune's own folder again)");
}

void read_vocabulary(BoundedReader& in, ModelFile& file) {
    file.vocabulary_offset = in.offset();
    const int32_t n_tokens = read_in_range(in, "vocabulary size", kLeastTokens, file.hparams.n_vocab);
    file.vocabulary.reserve(static_cast<size_t>(n_tokens));  // at most n_vocab, which is one of three numbers
    uint64_t end_of_text_offset = in.offset();
    for (int32_t id = 0; id < n_tokens; ++id) {
        const std::string token = "token " + std::to_string(id);
        if (id == kLeastTokens) end_of_text_offset = in.offset();
        const int32_t n_bytes = read_in_range(in, token + " length", 0, kLongestTokenBytes);
        file.vocabulary.push_back(in.read_string(static_cast<uint64_t>(n_bytes), token));
    }
    refuse_english_text(in, file, end_of_text_offset);
}

// ---- Tensors ------------------------------------------------------------------------------------------------------

constexpr int32_t kMostDims = 4;
constexpr int32_t kLongestTensorNameBytes = 128;

std::string dims_text(const std::vector<int32_t>& dims) {
    std::string text;
    for (const int32_t dim : dims) text += (text.empty() ? "[" : ", ") + std::to_string(dim);
    return text + "]";
}

// Writers may pad a shape with ones.
bool same_shape(std::vector<int32_t> dims, std::vector<int32_t> expected) {
    dims.resize(kMostDims, 1);
    expected.resize(kMostDims, 1);
    return dims == expected;
}

uint64_t bytes_of(const TensorSpec& spec, const TensorType& type) {
    uint64_t n_rows = 1;
    for (size_t i = 1; i < spec.dims.size(); ++i) n_rows *= static_cast<uint64_t>(spec.dims[i]);
    // The ranges of the dimensions leave no room for overflow, and rows were matched with blocks by read_type().
    return tensor_bytes(type, static_cast<uint64_t>(spec.dims[0]), n_rows).value();
}

// Takes the tensors of a file one by one and knows which are still to come.
class TensorTable {
  public:
    TensorTable(const Hparams& hparams, const TensorType* matrix_type)
        : specs_(whisper_tensors(hparams, matrix_type)), found_(specs_.size(), false) {
        for (size_t i = 0; i < specs_.size(); ++i) index_.emplace(specs_[i].name, i);
    }

    std::vector<TensorInfo> read(BoundedReader& in) {
        std::vector<TensorInfo> tensors;
        while (in.remaining() > 0 && tensors.size() < specs_.size()) tensors.push_back(read_tensor(in, tensors.size()));
        require_all_found(in);
        if (in.remaining() > 0) {
            in.fail(in.offset(), "end of the file", std::to_string(in.remaining()) + " bytes away",
                    "nothing after the last tensor");
        }
        return tensors;
    }

  private:
    TensorInfo read_tensor(BoundedReader& in, size_t position) {
        const std::string tensor = "tensor " + std::to_string(position) + " ";
        const int32_t n_dims = read_in_range(in, tensor + "n_dims", 1, kMostDims);
        const int32_t name_bytes = read_in_range(in, tensor + "name length", 1, kLongestTensorNameBytes);
        const uint64_t type_offset = in.offset();
        const int32_t type_id = in.read_i32(tensor + "type");
        const uint64_t dims_offset = in.offset();
        std::vector<int32_t> dims;
        for (int32_t i = 0; i < n_dims; ++i) dims.push_back(in.read_i32(tensor + "dims"));

        const TensorSpec& spec = read_name(in, tensor + "name", name_bytes);
        const TensorType& type = checked_type(in, type_offset, type_id, spec);
        if (!same_shape(dims, spec.dims)) {
            in.fail(dims_offset, spec.name + " dims", dims_text(dims), dims_text(spec.dims));
        }
        const uint64_t offset = in.offset();
        const uint64_t n_bytes = bytes_of(spec, type);
        in.skip(n_bytes, spec.name + " data");
        return {spec.name, &type, spec.dims, offset, n_bytes};
    }

    const TensorSpec& read_name(BoundedReader& in, const std::string& field, int32_t n_bytes) {
        const uint64_t offset = in.offset();
        const std::string name = in.read_string(static_cast<uint64_t>(n_bytes), field);
        const auto entry = index_.find(name);
        if (entry == index_.end()) {
            in.fail(offset, field, quoted(name), "the name of a tensor that a Whisper model of these dimensions has");
        }
        if (found_[entry->second]) {
            in.fail(offset, field, quoted(name) + " for the second time", "each tensor once");
        }
        found_[entry->second] = true;
        return specs_[entry->second];
    }

    static const TensorType& checked_type(const BoundedReader& in, uint64_t offset, int32_t id,
                                          const TensorSpec& spec) {
        const TensorType* type = find_tensor_type_by_ggml_id(id);
        if (type != nullptr && (spec.type == nullptr ? fits_row(*type, spec) : type == spec.type)) return *type;
        const std::string number = std::to_string(id);
        in.fail(offset, spec.name + " type", type ? std::string(type->name) + " (" + number + ")" : number,
                spec.type ? std::string(spec.type->name) + " (" + std::to_string(spec.type->ggml_id) + ")"
                          : list_tensor_types(&TensorType::ggml_id) + " with blocks that fit into rows of " +
                                std::to_string(spec.dims[0]) + " values");
    }

    static bool fits_row(const TensorType& type, const TensorSpec& spec) noexcept {
        return spec.dims[0] % static_cast<int32_t>(type.block_size) == 0;
    }

    void require_all_found(const BoundedReader& in) const {
        const auto missing = std::find(found_.begin(), found_.end(), false);
        if (missing == found_.end()) return;
        const TensorSpec& spec = specs_[static_cast<size_t>(missing - found_.begin())];
        const auto n_found = std::count(found_.begin(), found_.end(), true);
        in.fail(in.size(), spec.name, "missing",
                "all " + std::to_string(specs_.size()) + " tensors (" + std::to_string(n_found) + " are there)");
    }

    std::vector<TensorSpec> specs_;
    std::vector<bool> found_;
    std::unordered_map<std::string_view, size_t> index_;  // views into specs_, which never changes
};

}  // namespace

uint64_t TensorInfo::n_values() const noexcept {
    uint64_t product = 1;
    for (const int32_t dim : dims) product *= static_cast<uint64_t>(dim);
    return product;
}

std::string_view ModelFile::ftype_name() const noexcept {
    return matrix_type ? matrix_type->name : "mixed";
}

bool ModelFile::is_multilingual() const noexcept {
    return hparams.n_vocab >= 51865;
}

int32_t ModelFile::n_languages() const noexcept {
    return hparams.n_vocab - 51765 - (is_multilingual() ? 1 : 0);
}

const TensorInfo* ModelFile::find_tensor(std::string_view name) const noexcept {
    const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
    return found == tensors.end() ? nullptr : &*found;
}

ModelFile read_model_file(const std::filesystem::path& path) {
    BoundedReader in(path);
    ModelFile file;
    file.path = path;
    file.file_bytes = in.size();
    check_magic(in);
    file.hparams = read_hparams(in);
    const FileType file_type = read_file_type(in, file.hparams);
    file.matrix_type = file_type.matrix_type;
    file.quantization_version = file_type.version;
    read_mel_filters(in, file);
    read_vocabulary(in, file);
    file.tensors = TensorTable(file.hparams, file.matrix_type).read(in);
    return file;
}

}  // namespace whisperq::model
