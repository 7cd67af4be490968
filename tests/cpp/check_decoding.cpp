// The test of csrc/decoding, built and fed by tests/native/test_decoding.py:
//
//   check_decoding math            row math of every ISA against double precision, Philox's known answers
//   check_decoding cases < FILE    decodes what the file says with a scripted model, and prints the answers
//   check_decoding bench           microseconds per row of 51865 logits, by ISA and task
//   check_decoding isas            the ISAs that this build has and this CPU can run, slowest first
//
// Exit code 0: all right; 1: something is wrong; 2: a bad task, or a case for an ISA that cannot be had here.
// A file of cases has a word and its values on each line: `model`, `option`, `window`, `stop_after`, and `run`, which
// decodes the windows so far and forgets them. tests/support/scripted_model.py has the same model in Python.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/status.h"
#include "decoding/decode_windows.h"
#include "decoding/philox.h"
#include "decoding/row_math.h"
#include "decoding/sampler.h"
#include "dispatch/isas.h"

namespace {

using namespace whisperq::decoding;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

uint64_t mix(uint64_t x) {  // SplitMix64's
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

struct Script {
    uint64_t seed = 0;
    int64_t n_vocab = 0, n_text_ctx = 0, n_windows = 0;
    int32_t eot = 0, first_time = 0;
    float peak = 0;  // how far favoured tokens are above the noise
    int64_t n_prompt = 0;
    float eot_per_token = 0;    // how much likelier the end becomes with each token behind the prompt
    int64_t nan_at_length = 0;  // a sequence of this length gets logits that are no numbers
    const RowMath* row_math = &whisperq::dispatch::isa_named("scalar").row_math;
};

// Logits that are a function of the script and of all tokens before: noise in (-8, 8), and eight favoured tokens. All
// sums are of exact terms with one rounding each, so that every machine has the same.
class ScriptedModel final : public LanguageModel {
  public:
    struct State final : Sequence {
        uint64_t hash = 0;
        int64_t n_tokens = 0;
        int32_t last_time = 0;
    };

    explicit ScriptedModel(const Script& script) : script_(script) {}
    int64_t n_vocab() const override { return script_.n_vocab; }
    int64_t n_text_ctx() const override { return script_.n_text_ctx; }
    size_t n_windows() const override { return static_cast<size_t>(script_.n_windows); }
    int64_t n_audio_ctx(size_t) const override { return 1500; }
    const RowMath& row_math() const override { return *script_.row_math; }
    void run(int64_t n_tasks, const whisperq::Task& task) override {
        for (int64_t i = 0; i < n_tasks; ++i) task(i, 0);
    }

    std::unique_ptr<Sequence> begin(size_t) override {
        auto state = std::make_unique<State>();
        state->hash = mix(script_.seed);
        return state;
    }

    void copy(const Sequence& from, Sequence& to) override {
        static_cast<State&>(to) = static_cast<const State&>(from);
    }

    bool decode(const std::vector<Pass>& passes, float* logits, const std::function<bool()>&) override {
        for (const Pass& pass : passes) {
            auto& state = static_cast<State&>(*pass.sequence);
            for (int64_t i = 0; i < pass.n_tokens; ++i) {
                state.hash = mix(state.hash ^ static_cast<uint64_t>(pass.tokens[i]));
                if (pass.tokens[i] >= script_.first_time) state.last_time = pass.tokens[i];
                if (++state.n_tokens > script_.n_text_ctx)
                    throw std::logic_error("a sequence is longer than the context");
                if (i < pass.first_logits) continue;
                write(state, logits);
                logits += script_.n_vocab;
            }
        }
        return true;
    }

  private:
    // One in four is a time, and one in eight the last time again.
    int64_t favoured(const State& state, uint64_t bits) const {
        const auto n_times = static_cast<uint64_t>(script_.n_vocab - script_.first_time);
        if (bits >> 61 == 0 && state.last_time > 0) return state.last_time;
        if (bits >> 62 == 1) return script_.first_time + static_cast<int64_t>(bits % n_times);
        return static_cast<int64_t>(bits % static_cast<uint64_t>(script_.eot));
    }

    void write(const State& state, float* logits) const {
        for (int64_t id = 0; id < script_.n_vocab; ++id) {
            const uint64_t bits = mix(state.hash + static_cast<uint64_t>(id));
            const auto sum = static_cast<int64_t>(bits >> 41) + static_cast<int64_t>(bits & 0x7fffff) - 0x7fffff;
            logits[id] = static_cast<float>(sum) * 0x1p-20f;
        }
        for (int k = 0; k < 8; ++k) {
            const int64_t id = favoured(state, mix(~state.hash + static_cast<uint64_t>(k)));
            logits[id] = logits[id] + (script_.peak - 0.5f * static_cast<float>(k));
        }
        logits[script_.eot] =
            logits[script_.eot] + script_.eot_per_token * static_cast<float>(state.n_tokens - script_.n_prompt);
        if (state.n_tokens == script_.nan_at_length) std::fill(logits, logits + script_.n_vocab, std::nanf(""));
    }

    const Script script_;
};

// ---- Cases ----------------------------------------------------------------------------------------------------------

template <class T>
T read(std::istream& in) {
    T value;
    if (!(in >> value)) throw std::logic_error("a value is missing or wrong");
    return value;
}

std::vector<int32_t> read_tokens(std::istream& in) {
    std::vector<int32_t> tokens;
    for (int32_t id; in >> id;) tokens.push_back(id);
    return tokens;
}

struct Case {
    Script script;
    DecodeOptions options;
    std::vector<WindowRequest> windows;
    int64_t stop_after = -1;  // questions of should_stop()
};

void read_model(std::istream& in, Script& script) {
    for (std::string field; in >> field;) {
        if (field == "seed")
            script.seed = read<uint64_t>(in);
        else if (field == "n_vocab")
            script.n_vocab = read<int64_t>(in);
        else if (field == "n_text_ctx")
            script.n_text_ctx = read<int64_t>(in);
        else if (field == "eot")
            script.eot = read<int32_t>(in);
        else if (field == "first_time")
            script.first_time = read<int32_t>(in);
        else if (field == "peak")
            script.peak = read<float>(in);
        else if (field == "n_prompt")
            script.n_prompt = read<int64_t>(in);
        else if (field == "eot_per_token")
            script.eot_per_token = read<float>(in);
        else if (field == "nan_at_length")
            script.nan_at_length = read<int64_t>(in);
        else if (field == "isa")
            script.row_math = &whisperq::dispatch::isa_named(read<std::string>(in)).row_math;
        else
            throw std::logic_error("no field " + field);
    }
}

void read_option(std::istream& in, DecodeOptions& options) {
    const auto field = read<std::string>(in);
    if (field == "eot")
        options.eot = read<int32_t>(in);
    else if (field == "no_speech")
        options.no_speech = read<int32_t>(in);
    else if (field == "no_timestamps")
        options.no_timestamps = read<int32_t>(in);
    else if (field == "timestamp_begin")
        options.timestamp_begin = read<int32_t>(in);
    else if (field == "blank")
        options.blank = read_tokens(in);
    else if (field == "suppress_tokens")
        options.suppress_tokens = read_tokens(in);
    else if (field == "temperature")
        options.temperature = read<float>(in);
    else if (field == "beam_size")
        options.beam_size = read<int>(in);
    else if (field == "best_of")
        options.best_of = read<int>(in);
    else if (field == "patience")
        options.patience = read<double>(in);
    else if (field == "length_penalty")
        options.length_penalty = read<double>(in);
    else if (field == "sample_len")
        options.sample_len = read<int64_t>(in);
    else if (field == "suppress_blank")
        options.suppress_blank = read<bool>(in);
    else if (field == "without_timestamps")
        options.without_timestamps = read<bool>(in);
    else if (field == "max_initial_timestamp_index")
        options.max_initial_timestamp_index = read<int32_t>(in);
    else if (field == "repetition_penalty")
        options.repetition_penalty = read<float>(in);
    else if (field == "no_repeat_ngram_size")
        options.no_repeat_ngram_size = read<int>(in);
    else if (field == "seed")
        options.seed = read<uint64_t>(in);
    else
        throw std::logic_error("no option " + field);
}

void run(Case& asked) {
    asked.script.n_windows = static_cast<int64_t>(asked.windows.size());
    ScriptedModel model(asked.script);
    DecodeStages stages;
    int64_t n_asked = 0;
    const auto should_stop = [&] { return asked.stop_after >= 0 && n_asked++ >= asked.stop_after; };
    try {
        for (const WindowResult& result : decode_windows(model, asked.windows, asked.options, should_stop, stages)) {
            std::printf("window %d %.9g %.9g %.17g", result.is_complete ? 1 : 0, double{result.no_speech_prob},
                        double{result.sum_logprob}, result.avg_logprob);
            for (const int32_t id : result.tokens) std::printf(" %d", id);
            std::printf("\n");
        }
        std::printf("runs %lld %lld %lld %lld\n", static_cast<long long>(stages.prompt.runs),
                    static_cast<long long>(stages.decode.runs), static_cast<long long>(stages.batchd.runs),
                    static_cast<long long>(stages.sample.runs));
    } catch (const whisperq::Error& e) {
        std::printf("error %s %s\n", e.status() == whisperq::Status::argument ? "argument" : "inference", e.what());
    }
}

int run_cases() {
    Case asked;
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream in(line);
        const auto word = read<std::string>(in);
        if (word == "model") {
            read_model(in, asked.script);
        } else if (word == "option") {
            read_option(in, asked.options);
        } else if (word == "stop_after") {
            asked.stop_after = read<int64_t>(in);
        } else if (word == "window") {
            WindowRequest window;
            window.sot_index = read<int64_t>(in);
            window.stream = read<uint64_t>(in);
            window.tokens = read_tokens(in);
            asked.windows.push_back(std::move(window));
        } else if (word == "run") {
            run(asked);
            asked = {};
        } else {
            throw std::logic_error("no word " + word);
        }
    }
    return 0;
}

// ---- Arithmetic -----------------------------------------------------------------------------------------------------

int n_wrong = 0;

void expect(bool holds, const std::string& what) {
    if (holds) return;
    ++n_wrong;
    std::fprintf(stderr, "wrong: %s\n", what.c_str());
}

std::vector<whisperq::dispatch::IsaInfo> usable_isas() {
    std::vector<whisperq::dispatch::IsaInfo> found;
    for (const whisperq::dispatch::IsaInfo& isa : whisperq::dispatch::isas()) {
        if (isa.is_usable()) found.push_back(isa);
    }
    return found;
}

std::vector<float> noise(int64_t n, float range, uint64_t seed) {
    std::vector<float> x(static_cast<size_t>(n));
    for (size_t i = 0; i < x.size(); ++i) {
        x[i] = range * (static_cast<float>(mix(seed + i * 977) >> 40) * 0x1p-23f - 1.0f);
    }
    return x;
}

void check_sums(const RowMath& math, int64_t n, float range, float scale) {
    std::vector<float> x = noise(n, range, static_cast<uint64_t>(n));
    for (size_t i = 0; i < x.size(); i += 7) x[i] = -kInfinity;
    const float largest = *std::max_element(x.begin(), x.end());
    const std::string name = std::string(math.isa) + " of " + std::to_string(n) + " values to " + std::to_string(range);
    expect(math.max_of(x.data(), n) == largest, "max_of, " + name);
    if (largest == -kInfinity) return;
    double sum = 0;
    for (const float value : x) sum += std::exp(double{(value - largest) * scale});
    // exp_of: 2e-7 of each; sums in float: at most 64 additions in a row, a few roundings of which can agree
    const double error = std::abs(math.sum_exp(x.data(), n, largest, scale) - sum) / sum;
    expect(!(error > 1e-6), "sum_exp, " + name + ": " + std::to_string(error * 1e6) + "e-6 off");
    std::vector<float> probabilities = x;
    math.softmax(probabilities.data(), n);
    double exact_sum = 0;
    for (const float value : x) exact_sum += std::exp(double{value} - double{largest});
    for (size_t i = 0; i < x.size(); ++i) {
        const double exact = std::exp(double{x[i]} - double{largest}) / exact_sum;
        // the difference in the exponent is rounded, to a part of 2^-24 of up to 87
        expect(!(std::abs(probabilities[i] - exact) > 6e-6 * exact + 1e-37), "softmax, " + name);
    }
    for (const int64_t at : {int64_t{0}, n / 2, n - 1}) {
        std::vector<float> bad = x;
        bad[static_cast<size_t>(at)] = std::nanf("");
        expect(std::isnan(math.max_of(bad.data(), n)), "max_of with NaN, " + name);
        expect(std::isnan(math.sum_exp(bad.data(), n, largest, scale)), "sum_exp with NaN, " + name);
    }
}

void check_row_math(const RowMath& math) {
    for (const int64_t n : {1, 3, 4, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1501, 51865}) {
        for (const float range : {0.001f, 1.0f, 30.0f, 500.0f}) {
            check_sums(math, n, range, 1);
            check_sums(math, n, range, 2.5f);
        }
    }
    for (float x = 0; x > -87; x -= 0.01f) {
        const double exact = std::exp(double{x});
        expect(!(std::abs(math.sum_exp(&x, 1, 0, 1) - exact) > 2.5e-7 * exact), "exp of " + std::to_string(x));
    }
    for (const float x : {-88.0f, -1e30f, -kInfinity}) expect(math.sum_exp(&x, 1, 0, 1) == 0, "exp of the least");
    expect(math.max_of(nullptr, 0) == -kInfinity, "max_of of nothing");
}

void check_philox() {
    const uint32_t ones = 0xffffffff;
    expect(philox({0, 0, 0, 0}, {0, 0}) == PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
           "philox of 0");
    expect(
        philox({ones, ones, ones, ones}, {ones, ones}) == PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        "philox of ones");
    expect(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
               PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
           "philox of pi");
}

// The cumulative probabilities of a small row, against where the samples change.
void check_sampling(const RowMath& math) {
    std::vector<float> logits = noise(1000, 5, 3);
    for (size_t i = 0; i < logits.size(); i += 3) logits[i] = -kInfinity;
    for (const float temperature : {0.2f, 1.0f, 1.7f}) {
        const Distribution distribution({logits.data(), 10, 990}, math);
        double all = 0, before = 0;
        for (int i = 10; i < 990; ++i) all += std::exp(double{logits[static_cast<size_t>(i)]} / temperature);
        for (int i = 10; i < 990; ++i) {
            const double weight = std::exp(double{logits[static_cast<size_t>(i)]} / temperature) / all;
            if (weight > 1e-5) {
                const int32_t got = distribution.sample(before + weight / 2, temperature);
                expect(got == i, "sample " + std::to_string(got) + " instead of " + std::to_string(i));
            }
            before += weight;
        }
        expect(logits[static_cast<size_t>(distribution.sample(0, temperature))] > -kInfinity, "the first sample");
        expect(logits[static_cast<size_t>(distribution.sample(1 - 0x1p-53, temperature))] > -kInfinity,
               "the last sample");
    }
}

void check_order(const RowMath& math) {
    std::vector<float> logits = noise(51865, 8, 9);
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::round(logits[i] * 64);  // many are equal
    std::vector<int32_t> order(logits.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    const Distribution distribution({logits.data(), 0, 51865}, math);
    expect(distribution.likeliest() == order[0], "the likeliest");
    for (const int n : {1, 2, 6, 100}) {
        const std::vector<int32_t> best = distribution.likeliest(n);
        expect(std::equal(best.begin(), best.end(), order.begin()), "the likeliest " + std::to_string(n));
    }
    const Distribution narrow({logits.data(), 4, 7}, math);
    std::vector<int32_t> filled = narrow.likeliest(6);
    std::sort(filled.begin(), filled.end());
    expect(filled == std::vector<int32_t>({0, 1, 2, 4, 5, 6}), "the filling");
}

int print_isas() {
    for (const whisperq::dispatch::IsaInfo& each : usable_isas()) std::printf("%s\n", each.name);
    return 0;
}

int check_math() {
    check_philox();
    for (const whisperq::dispatch::IsaInfo& each : usable_isas()) {
        const RowMath& math = each.isa->row_math;
        check_row_math(math);
        check_sampling(math);
        check_order(math);
        std::printf("%s\n", math.isa);
    }
    return n_wrong == 0 ? 0 : 1;
}

// ---- Benchmark ------------------------------------------------------------------------------------------------------

template <class F>
double best_us(const F& work) {
    double best = 1e9;
    for (int i = 0; i < 300; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        work();
        const std::chrono::duration<double, std::micro> spent = std::chrono::steady_clock::now() - begin;
        best = std::min(best, spent.count());
    }
    return best;
}

int bench() {
    constexpr int64_t kVocab = 51865;
    std::vector<float> logits = noise(kVocab, 8, 1);
    for (size_t i = 50364; i < logits.size(); ++i) logits[i] -= 20;  // text is to come: the longest way
    DecodeOptions options;
    options.eot = 50257;
    options.no_timestamps = 50363;
    options.timestamp_begin = 50364;
    for (int32_t i = 0; i < 90; ++i) options.suppress_tokens.push_back(i * 500);
    int64_t sink = 0;
    for (const whisperq::dispatch::IsaInfo& each : usable_isas()) {
        const RowMath& math = each.isa->row_math;
        const LogitFilters filters(options, kVocab, math);
        const std::vector<int32_t> sampled{50364, 5, 7, 9};
        const FilteredRow row = filters.apply(sampled, logits.data());
        const double filter = best_us([&] { sink += filters.apply(sampled, logits.data()).begin; });
        const double greedy = best_us([&] { sink += Distribution(row, math).likeliest(); });
        const double beam = best_us([&] { sink += Distribution(row, math).likeliest(6)[5]; });
        const double sampling = best_us([&] { sink += Distribution(row, math).sample(0.37, 0.8f); });
        std::printf("%s filters %.1f greedy %.1f beam 5 %.1f sample %.1f us\n", each.name, filter, greedy, beam,
                    sampling);
    }
    return sink == 1;
}

}  // namespace

int main(int n_arguments, char** arguments) {
    const std::string task = n_arguments == 2 ? arguments[1] : "";
    try {
        if (task == "math") return check_math();
        if (task == "cases") return run_cases();
        if (task == "bench") return bench();
        if (task == "isas") return print_isas();
    } catch (const whisperq::Error& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 2;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    std::fprintf(stderr, "check_decoding math | cases | bench | isas\n");
    return 2;
}
