#include "decoding/decode_windows.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "core/clock.h"
#include "core/status.h"
#include "decoding/logit_filters.h"
#include "decoding/row_math.h"
#include "decoding/sampler.h"

namespace whisperq::decoding {
namespace {

using Sequence = LanguageModel::Sequence;
using Pass = LanguageModel::Pass;

// A prompt's logits after <|startoftranscript|> and after its last token are wanted. So many rows between them are
// computed in one pass. A prompt with more tokens in between takes two passes, instead of the memory of a row for each.
constexpr int64_t kMostPromptRows = 8;

class Timed {
  public:
    Timed(Stage& stage, int64_t runs) : stage_(stage), begin_us_(now_us()) { stage_.runs += runs; }
    ~Timed() { stage_.us += now_us() - begin_us_; }
    Timed(const Timed&) = delete;
    Timed& operator=(const Timed&) = delete;

  private:
    Stage& stage_;
    const int64_t begin_us_;
};

std::string window_field(size_t window, const char* field) {
    return std::string(field) + " of window " + std::to_string(window);
}

void check(const WindowRequest& request, size_t window, const LanguageModel& model) {
    const auto n_tokens = static_cast<int64_t>(request.tokens.size());
    if (n_tokens < 1 || n_tokens > model.n_text_ctx()) {
        throw Error(Status::argument, "the number of " + window_field(window, "tokens") + " is " +
                                          std::to_string(n_tokens) + "; it has to be from 1 to " +
                                          std::to_string(model.n_text_ctx()) + ", the text context of the model");
    }
    for (const int32_t id : request.tokens) {
        if (id >= 0 && id < model.n_vocab()) continue;
        throw Error(Status::argument, "one of the " + window_field(window, "tokens") + " is " + std::to_string(id) +
                                          "; ids are from 0 to " + std::to_string(model.n_vocab() - 1));
    }
    if (request.sot_index < 0 || request.sot_index >= n_tokens) {
        throw Error(Status::argument, window_field(window, "sot_index") + " is " + std::to_string(request.sot_index) +
                                          "; it has to be from 0 to " + std::to_string(n_tokens - 1));
    }
    const int64_t most_prefix = n_tokens - 1 - request.sot_index;
    if (request.n_prefix < 0 || request.n_prefix > most_prefix) {
        throw Error(Status::argument, window_field(window, "n_prefix") + " is " + std::to_string(request.n_prefix) +
                                          "; it has to be from 0 to " + std::to_string(most_prefix) +
                                          ", the tokens behind sot_index");
    }
}

// A window that is being decoded. sequences[i] holds all tokens of search->live()[i] but the last.
struct Window {
    const WindowRequest* request;
    WindowResult* result;
    std::unique_ptr<Search> search;
    std::vector<std::unique_ptr<Sequence>> sequences;
    int64_t n_sampled = 0;  // tokens of each sequence
    bool is_done = false;
};

class Task {
  public:
    Task(LanguageModel& model, const std::vector<WindowRequest>& requests, const DecodeOptions& options,
         const std::function<bool()>& should_stop, DecodeStages& stages)
        : model_(model),
          options_(options),
          should_stop_(should_stop),
          stages_(stages),
          n_vocab_(model.n_vocab()),
          sample_len_(options.sample_len > 0 ? options.sample_len : model.n_text_ctx() / 2),
          math_(model.row_math()),
          filters_(options, n_vocab_, math_),
          results_(requests.size()) {
        for (size_t i = 0; i < requests.size(); ++i) {
            Window window{&requests[i], &results_[i], begin_search(options, requests[i].stream, math_), {}};
            window.sequences.push_back(model.begin(i));
            windows_.push_back(std::move(window));
        }
    }

    std::vector<WindowResult> run() {
        bool goes_on = !windows_.empty() && !should_stop_() && take_prompts();
        while (goes_on && count_sequences() > 0) goes_on = !should_stop_() && take_step();
        return std::move(results_);
    }

  private:
    int64_t count_sequences() const {
        size_t n = 0;
        for (const Window& window : windows_) n += window.is_done ? 0 : window.sequences.size();
        return static_cast<int64_t>(n);
    }

    bool wants_no_speech() const { return options_.no_speech >= 0; }

    static int64_t n_tokens(const Window& window) { return static_cast<int64_t>(window.request->tokens.size()); }

    // Return the rows from <|startoftranscript|> to the last token of the prompt.
    int64_t n_prompt_rows(const Window& window) const {
        return wants_no_speech() ? n_tokens(window) - window.request->sot_index : 1;
    }

    // Decode the prompts. This function and the next ones return false when should_stop() said so.
    bool take_prompts() {
        if (!take_long_prompts_to_sot()) return false;
        std::vector<int64_t> first_row;
        int64_t n_rows = 0, n_prompt_tokens = 0;
        for (const Window& window : windows_) {
            first_row.push_back(n_rows);
            n_rows += is_long(window) ? 1 : n_prompt_rows(window);
        }
        reserve(n_rows);
        std::vector<Pass> passes;
        for (size_t i = 0; i < windows_.size(); ++i) {
            const Window& window = windows_[i];
            const int64_t begin = is_long(window) ? window.request->sot_index + 1 : 0;
            const int64_t n = n_tokens(window) - begin;
            const int64_t n_wanted = is_long(window) ? 1 : n_prompt_rows(window);
            passes.push_back({window.sequences[0].get(), window.request->tokens.data() + begin, n, n - n_wanted});
            n_prompt_tokens += n;
        }
        if (!decode(stages_.prompt, n_prompt_tokens, passes)) return false;

        const Timed timed(stages_.sample, static_cast<int64_t>(windows_.size()));
        model_.run(static_cast<int64_t>(windows_.size()), [&](int64_t i, int) {
            Window& window = windows_[static_cast<size_t>(i)];
            const int64_t first = first_row[static_cast<size_t>(i)];
            if (!is_long(window)) window.result->no_speech_prob = no_speech_prob(row(first));
            sample(window, row(first + (is_long(window) ? 1 : n_prompt_rows(window)) - 1));
        });
        return true;
    }

    bool is_long(const Window& window) const { return n_prompt_rows(window) > kMostPromptRows; }

    bool take_long_prompts_to_sot() {
        std::vector<Window*> windows;
        for (Window& window : windows_) {
            if (is_long(window)) windows.push_back(&window);
        }
        if (windows.empty()) return true;
        reserve(static_cast<int64_t>(windows.size()));
        std::vector<Pass> passes;
        int64_t n_prompt_tokens = 0;
        for (const Window* window : windows) {
            const int64_t n = window->request->sot_index + 1;
            passes.push_back({window->sequences[0].get(), window->request->tokens.data(), n, n - 1});
            n_prompt_tokens += n;
        }
        if (!decode(stages_.prompt, n_prompt_tokens, passes)) return false;
        for (size_t i = 0; i < windows.size(); ++i) {
            windows[i]->result->no_speech_prob = no_speech_prob(row(static_cast<int64_t>(i)));
        }
        return true;
    }

    bool take_step() {
        const int64_t n_rows = count_sequences();
        reserve(n_rows);
        std::vector<Pass> passes;
        std::vector<std::pair<Window*, int64_t>> first_rows;
        for (Window& window : windows_) {
            if (!window.is_done) first_rows.emplace_back(&window, static_cast<int64_t>(passes.size()));
            for (size_t i = 0; !window.is_done && i < window.sequences.size(); ++i) {
                passes.push_back({window.sequences[i].get(), &window.search->live()[i].tokens.back(), 1, 0});
            }
        }
        if (!decode(n_rows == 1 ? stages_.decode : stages_.batchd, n_rows, passes)) return false;

        const Timed timed(stages_.sample, n_rows);
        model_.run(static_cast<int64_t>(first_rows.size()), [&](int64_t i, int) {
            const auto& [window, first_row] = first_rows[static_cast<size_t>(i)];
            sample(*window, row(first_row));
        });
        return true;
    }

    bool decode(Stage& stage, int64_t runs, const std::vector<Pass>& passes) {
        const Timed timed(stage, runs);
        return model_.decode(passes, logits_.data(), should_stop_);
    }

    // Sample the next tokens of a window. `logits` are those after each of its sequences.
    void sample(Window& window, float* logits) {
        std::vector<FilteredRow> rows;
        for (const LiveSequence& sequence : window.search->live()) {
            rows.push_back(filters_.apply(behind_prefix(window, sequence.tokens), logits));
            logits += n_vocab_;
        }
        window.search->update(rows);
        ++window.n_sampled;

        // A sequence that fills the context is still asked for the token behind it, as openai/whisper does.
        const bool is_full = n_tokens(window) + window.n_sampled > model_.n_text_ctx();
        if (window.search->is_done() || window.n_sampled == sample_len_ || is_full) {
            finish(window);
        } else {
            follow(window);
        }
    }

    // Return the tokens that the rules know of: the prefix, as if it had been sampled, and the sampled tokens.
    std::vector<int32_t> behind_prefix(const Window& window, const std::vector<int32_t>& sampled) const {
        const std::vector<int32_t>& prompt = window.request->tokens;
        std::vector<int32_t> tokens(prompt.end() - window.request->n_prefix, prompt.end());
        tokens.insert(tokens.end(), sampled.begin(), sampled.end());
        return tokens;
    }

    // Make the sequences those of the search. The first continuation of a sequence takes it over, and the others get
    // copies. Copies go into sequences that nothing continues, as long as there are any.
    void follow(Window& window) {
        std::vector<std::unique_ptr<Sequence>>& before = window.sequences;
        const std::vector<LiveSequence>& live = window.search->live();
        std::vector<std::unique_ptr<Sequence>> after(live.size());
        std::vector<const Sequence*> now_at(before.size(), nullptr);
        for (size_t i = 0; i < live.size(); ++i) {
            const auto source = static_cast<size_t>(live[i].source);
            if (now_at[source] != nullptr) continue;
            after[i] = std::move(before[source]);
            now_at[source] = after[i].get();
        }
        size_t spare = 0;
        for (size_t i = 0; i < live.size(); ++i) {
            if (after[i]) continue;
            while (spare < before.size() && !before[spare]) ++spare;
            after[i] = spare < before.size() ? std::move(before[spare]) : model_.begin(index_of(window));
            model_.copy(*now_at[static_cast<size_t>(live[i].source)], *after[i]);
        }
        before = std::move(after);
    }

    size_t index_of(const Window& window) const { return static_cast<size_t>(&window - windows_.data()); }

    void finish(Window& window) {
        std::vector<Candidate> candidates = window.search->finish();
        Candidate& best = candidates[rank(candidates, options_.length_penalty)];
        WindowResult& result = *window.result;
        result.tokens = std::move(best.tokens);
        result.sum_logprob = best.sum_logprob;
        result.avg_logprob = double{best.sum_logprob} / (static_cast<double>(result.tokens.size()) + 1);
        result.is_complete = true;
        window.is_done = true;
        window.sequences.clear();
    }

    float no_speech_prob(const float* logits) const {
        if (!wants_no_speech()) return std::numeric_limits<float>::quiet_NaN();
        return std::exp(Distribution({logits, 0, n_vocab_}, math_).log_probability(options_.no_speech));
    }

    void reserve(int64_t n_rows) { logits_.resize(logit_bytes(n_rows, n_vocab_) / sizeof(float)); }
    float* row(int64_t i) { return logits_.data() + i * n_vocab_; }

    LanguageModel& model_;
    const DecodeOptions& options_;
    const std::function<bool()>& should_stop_;
    DecodeStages& stages_;
    const int64_t n_vocab_, sample_len_;
    const RowMath& math_;
    const LogitFilters filters_;
    std::vector<WindowResult> results_;
    std::vector<Window> windows_;
    std::vector<float> logits_;  // [row][n_vocab]
};

}  // namespace

std::vector<WindowResult> decode_windows(LanguageModel& model, const std::vector<WindowRequest>& requests,
                                         const DecodeOptions& options, const std::function<bool()>& should_stop,
                                         DecodeStages& stages) {
    check(options, model.n_vocab());
    if (requests.size() != model.n_windows()) {
        throw Error(Status::argument, "the number of requests is " + std::to_string(requests.size()) +
                                          "; it has to be that of the windows, " + std::to_string(model.n_windows()));
    }
    for (size_t i = 0; i < requests.size(); ++i) check(requests[i], i, model);
    return Task(model, requests, options, should_stop, stages).run();
}

}  // namespace whisperq::decoding
