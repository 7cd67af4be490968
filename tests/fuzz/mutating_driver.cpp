// What libFuzzer does, as far as it can be done without it: runs the target on every file of the corpus and then on
// mutations of them, the same ones on every run. Understands the options of libFuzzer that tests/fuzz/run.py gives.
#include <sanitizer/common_interface_defs.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" const char* __asan_default_options() {
    return "handle_abort=1:allocator_may_return_null=0:max_allocation_size_mb=64";
}

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

constexpr size_t kLongestInput = 4096;

// What runs now, for the callback of the sanitizers.
Bytes current;
std::string finding_path = "crash-input";

void keep_current() {
    std::ofstream(finding_path, std::ios::binary)
        .write(reinterpret_cast<const char*>(current.data()), static_cast<std::streamsize>(current.size()));
    std::fprintf(stderr, "The input is in %s\n", finding_path.c_str());
}

void run(const Bytes& input) {
    current = input;
    LLVMFuzzerTestOneInput(current.data(), current.size());
}

Bytes read_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

std::vector<Bytes> read_corpus(const std::vector<fs::path>& folders) {
    std::vector<fs::path> paths;
    for (const fs::path& folder : folders) {
        for (const auto& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    std::vector<Bytes> corpus = {{}};
    for (const fs::path& path : paths) corpus.push_back(read_file(path));
    return corpus;
}

class Mutator {
  public:
    explicit Mutator(const std::vector<Bytes>& corpus) : corpus_(corpus) {}

    Bytes next() {
        Bytes input = corpus_[below(corpus_.size())];
        const size_t n_changes = 1 + below(4);
        for (size_t i = 0; i < n_changes; ++i) change(input);
        if (input.size() > kLongestInput) input.resize(kLongestInput);
        return input;
    }

  private:
    size_t below(size_t end) { return static_cast<size_t>(random_()) % end; }

    void change(Bytes& input) {
        constexpr uint8_t kInteresting[] = {0, 1, 3, 4, 7, 0x7f, 0x80, 0xff};
        const size_t at = below(input.size() + 1);
        const auto place = input.begin() + static_cast<std::ptrdiff_t>(at);
        const size_t n_bytes = std::min(1 + below(4), input.size() - at);
        switch (below(6)) {
            case 0:
                if (at < input.size()) input[at] = static_cast<uint8_t>(input[at] ^ (1U << below(8)));
                break;
            case 1:
                std::fill_n(place, n_bytes, kInteresting[below(std::size(kInteresting))]);
                break;
            case 2:
                input.insert(place, 1 + below(4), static_cast<uint8_t>(below(256)));
                break;
            case 3:
                input.erase(place, place + static_cast<std::ptrdiff_t>(n_bytes));
                break;
            case 4:
                if (at < input.size()) input[at] = static_cast<uint8_t>(below(256));
                break;
            case 5: {  // what another input has from here on
                const Bytes& other = corpus_[below(corpus_.size())];
                const size_t from = std::min(at, other.size());
                input.resize(at);
                input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
                break;
            }
        }
    }

    const std::vector<Bytes>& corpus_;
    std::mt19937_64 random_{20240914};
};

}  // namespace

int main(int argc, char** argv) {
    double seconds = 60;
    std::vector<fs::path> folders;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        const size_t equals = argument.find('=');
        if (argument[0] != '-') {
            folders.emplace_back(argument);
        } else if (argument.compare(0, equals, "-max_total_time") == 0) {
            seconds = std::atof(argument.c_str() + equals + 1);
        } else if (argument.compare(0, equals, "-artifact_prefix") == 0) {
            finding_path = argument.substr(equals + 1) + "crash-input";
        }
    }
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    __sanitizer_set_death_callback(keep_current);
    LLVMFuzzerInitialize(&argc, &argv);
    const std::vector<Bytes> corpus = read_corpus(folders);
    unsigned long n_runs = 0;
    for (const Bytes& input : corpus) run(input), ++n_runs;
    for (Mutator mutator(corpus); std::chrono::steady_clock::now() < end; ++n_runs) run(mutator.next());
    std::fprintf(stderr, "stat::number_of_executed_units: %lu\n", n_runs);
    return 0;
}
