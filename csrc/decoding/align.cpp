#include "decoding/align.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "core/clock.h"
#include "core/status.h"
#include "decoding/row_math.h"

namespace whisperq::decoding {
namespace {

using Pass = LanguageModel::Pass;

constexpr int64_t kPieceTokens = 32;                     // tokens of a window in a pass: it keeps the logits of all
constexpr size_t kMostScores = (size_t{256} << 20) / 4;  // floats of all windows that are in memory together

enum class Step : uint8_t { both, text, time };

// Return the floats of the scores of one window, or of a piece of it.
constexpr size_t n_scores(size_t n_heads, int64_t n_tokens, int64_t n_ctx) {
    return n_heads * static_cast<size_t>(n_tokens) * static_cast<size_t>(n_ctx);
}

// Return the bytes from scores to a path of one window: matrix, cost and steps.
constexpr size_t path_bytes(int64_t n_rows, int64_t n_columns) {
    return static_cast<size_t>(n_rows) * static_cast<size_t>(n_columns) *
           (sizeof(float) + sizeof(double) + sizeof(Step));
}

// ---- Median ---------------------------------------------------------------------------------------------------------

inline void sort_pair(float& a, float& b) {
    const float low = b < a ? b : a;
    b = b < a ? a : b;
    a = low;
}

// Return the median by the exchanges that a sorting network of seven needs for its middle. It has no branch, so that
// compilers vectorise it.
inline float median_of_7(const float* x) {
    float a = x[0], b = x[1], c = x[2], d = x[3], e = x[4], f = x[5], g = x[6];
    sort_pair(a, f);
    sort_pair(a, d);
    sort_pair(b, g);
    sort_pair(c, e);
    sort_pair(a, b);
    sort_pair(d, f);
    sort_pair(c, g);
    sort_pair(c, d);
    sort_pair(d, g);
    sort_pair(e, f);
    sort_pair(b, e);
    sort_pair(b, d);
    sort_pair(d, e);
    return d;
}

float median_of(const float* x, int64_t width, std::vector<float>& scratch) {
    scratch.assign(x, x + width);
    const auto middle = scratch.begin() + width / 2;
    std::nth_element(scratch.begin(), middle, scratch.end());
    return *middle;
}

std::vector<float> reflected(const float* x, int64_t n, int64_t margin) {
    std::vector<float> padded;
    padded.reserve(static_cast<size_t>(n + 2 * margin));
    for (int64_t i = margin; i > 0; --i) padded.push_back(x[i]);
    padded.insert(padded.end(), x, x + n);
    for (int64_t i = 0; i < margin; ++i) padded.push_back(x[n - 2 - i]);
    return padded;
}

// ---- The matrix -----------------------------------------------------------------------------------------------------

// Standardise the rows [n_tokens] of one head, `stride` apart: each column less its mean, over its deviation.
void standardise(float* head, int64_t n_tokens, int64_t stride, int64_t n_columns) {
    const auto n = static_cast<size_t>(n_columns);
    std::vector<double> mean(n), over_deviation(n);
    for (int64_t t = 0; t < n_tokens; ++t) {
        const float* row = head + t * stride;
        for (size_t c = 0; c < n; ++c) mean[c] += row[c];
    }
    for (double& value : mean) value /= static_cast<double>(n_tokens);
    for (int64_t t = 0; t < n_tokens; ++t) {
        const float* row = head + t * stride;
        for (size_t c = 0; c < n; ++c) over_deviation[c] += (row[c] - mean[c]) * (row[c] - mean[c]);
    }
    for (double& value : over_deviation) {
        value = value > 0 ? 1 / std::sqrt(value / static_cast<double>(n_tokens)) : 0;
    }
    for (int64_t t = 0; t < n_tokens; ++t) {
        float* row = head + t * stride;
        for (size_t c = 0; c < n; ++c) row[c] = static_cast<float>((row[c] - mean[c]) * over_deviation[c]);
    }
}

// ---- The pass over the tokens ---------------------------------------------------------------------------------------

struct Window {
    size_t index;
    const AlignRequest* request;
    AlignResult* result;
    std::vector<int32_t> tokens;  // sot_sequence, no_timestamps, text_tokens, eot
    std::unique_ptr<LanguageModel::Sequence> sequence;
    std::vector<float> scores;  // [heads][tokens][n_ctx]
    int64_t n_ctx = 0, n_done = 0;

    int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }
    int64_t n_sot() const { return static_cast<int64_t>(request->sot_sequence.size()); }
    int64_t n_text() const { return static_cast<int64_t>(request->text_tokens.size()); }
    int64_t n_next() const { return std::min(kPieceTokens, n_tokens() - n_done); }
};

class Task {
  public:
    Task(LanguageModel& model, const AlignOptions& options, const std::function<bool()>& should_stop,
         DecodeStages& stages)
        : model_(model), options_(options), should_stop_(should_stop), stages_(stages), math_(model.row_math()) {}

    Window begin(size_t index, const AlignRequest& request, AlignResult& result) {
        Window window{index, &request, &result, request.sot_sequence, model_.begin(index), {}};
        window.tokens.push_back(options_.no_timestamps);
        window.tokens.insert(window.tokens.end(), request.text_tokens.begin(), request.text_tokens.end());
        window.tokens.push_back(options_.eot);
        window.n_ctx = model_.n_audio_ctx(index);
        window.scores.resize(n_scores(options_.heads.size(), window.n_tokens(), window.n_ctx));
        return window;
    }

    // Return false when should_stop() said so.
    bool run(std::vector<Window>& windows) {
        for (;;) {
            std::vector<Window*> unfinished;
            for (Window& window : windows) {
                if (window.n_next() > 0) unfinished.push_back(&window);
            }
            if (unfinished.empty()) break;
            if (should_stop_() || !take_pieces(unfinished)) return false;
        }
        for (Window& window : windows) take_path(window);
        return true;
    }

  private:
    struct Piece {
        std::vector<float> scores;
        int64_t first_logits, n_logits;
    };

    bool take_pieces(const std::vector<Window*>& windows) {
        std::vector<Piece> pieces(windows.size());
        std::vector<Pass> passes;
        int64_t n_tokens = 0, n_logits = 0;
        for (size_t i = 0; i < windows.size(); ++i) {
            passes.push_back(pass_for(*windows[i], pieces[i]));
            n_tokens += passes.back().n_tokens;
            n_logits += pieces[i].n_logits;
        }
        std::vector<float> logits(logit_bytes(n_logits, model_.n_vocab()) / sizeof(float));
        const int64_t begin_us = now_us();
        const bool goes_on = model_.decode(passes, logits.data(), should_stop_);
        stages_.prompt.us += now_us() - begin_us;
        if (!goes_on) return false;
        stages_.prompt.runs += n_tokens;
        const float* first = logits.data();
        for (size_t i = 0; i < windows.size(); ++i) {
            keep(*windows[i], pieces[i], first);
            first += pieces[i].n_logits * model_.n_vocab();
        }
        return true;
    }

    // Ask for the logits from the last token before the text on.
    Pass pass_for(const Window& window, Piece& piece) const {
        const int64_t n = window.n_next();
        piece.first_logits = std::min(n, std::max<int64_t>(0, window.n_sot() - window.n_done));
        piece.n_logits = n - piece.first_logits;
        piece.scores.resize(n_scores(options_.heads.size(), n, window.n_ctx));
        return {window.sequence.get(), window.tokens.data() + window.n_done, n, piece.first_logits, &options_.heads,
                piece.scores.data()};
    }

    void keep(Window& window, const Piece& piece, const float* logits) const {
        const int64_t n = window.n_next();
        const int64_t n_kept = n * window.n_ctx;
        for (size_t head = 0; head < options_.heads.size(); ++head) {
            const float* from = piece.scores.data() + static_cast<int64_t>(head) * n_kept;
            const int64_t to = (static_cast<int64_t>(head) * window.n_tokens() + window.n_done) * window.n_ctx;
            std::copy(from, from + n_kept, window.scores.data() + to);
        }
        for (int64_t i = piece.first_logits; i < n; ++i, logits += model_.n_vocab()) {
            const int64_t text_index = window.n_done + i - window.n_sot();
            if (text_index >= window.n_text()) break;
            const int32_t token = window.request->text_tokens[static_cast<size_t>(text_index)];
            window.result->probabilities.push_back(probability(logits, token));
        }
        window.n_done += n;
    }

    float probability(const float* logits, int32_t token) const {
        const float largest = math_.max_of(logits, options_.eot);
        const double sum = math_.sum_exp(logits, options_.eot, largest, 1);
        if (!(sum >= 0.5)) refuse_logits();  // the largest alone counts 1; NaN fails
        return static_cast<float>(std::exp(double{logits[token]} - double{largest}) / sum);
    }

    void take_path(Window& window) const {
        const int64_t n_columns = std::min(window.request->n_audio_tokens, window.n_ctx);
        const std::vector<float> matrix =
            attention_matrix(window.scores.data(), static_cast<int64_t>(options_.heads.size()), window.n_tokens(),
                             window.n_ctx, n_columns, window.n_sot(), window.n_tokens() - 1, math_);
        std::vector<double> cost(matrix.size());
        std::transform(matrix.begin(), matrix.end(), cost.begin(), [](float value) { return -double{value}; });
        window.result->path = dtw(cost.data(), window.n_text() + 1, n_columns);
        window.result->is_complete = true;
    }

    LanguageModel& model_;
    const AlignOptions& options_;
    const std::function<bool()>& should_stop_;
    DecodeStages& stages_;
    const RowMath& math_;
};

void check(const AlignOptions& options, int64_t n_vocab) {
    for (const int32_t id : {options.eot, options.no_timestamps}) {
        if (id >= 0 && id < n_vocab) continue;
        throw Error(Status::argument, "eot or no_timestamps is " + std::to_string(id) + "; ids are from 0 to " +
                                          std::to_string(n_vocab - 1));
    }
    if (options.heads.empty()) throw Error(Status::argument, "heads are empty; one (layer, head) or more are needed");
}

void check(const AlignRequest& request, size_t window, const AlignOptions& options, const LanguageModel& model) {
    const std::string of_window = " of window " + std::to_string(window);
    const auto n_tokens = static_cast<int64_t>(request.sot_sequence.size() + request.text_tokens.size() + 2);
    if (n_tokens > model.n_text_ctx()) {
        throw Error(Status::argument, "the number of tokens" + of_window + " is " + std::to_string(n_tokens) +
                                          "; it has to be at most " + std::to_string(model.n_text_ctx()) +
                                          ", the text context of the model");
    }
    if (request.n_audio_tokens < 1) {
        throw Error(Status::argument, "n_audio_tokens" + of_window + " is " + std::to_string(request.n_audio_tokens) +
                                          "; it has to be 1 or more");
    }
    for (const int32_t id : request.sot_sequence) {
        if (id >= 0 && id < model.n_vocab()) continue;
        throw Error(Status::argument, "a token of sot_sequence" + of_window + " is " + std::to_string(id) +
                                          "; ids are from 0 to " + std::to_string(model.n_vocab() - 1));
    }
    for (const int32_t id : request.text_tokens) {
        if (id >= 0 && id < options.eot) continue;
        throw Error(Status::argument, "a token of text_tokens" + of_window + " is " + std::to_string(id) +
                                          "; it has to be from 0 to " + std::to_string(options.eot - 1));
    }
}

}  // namespace

AlignmentPath dtw(const double* cost, int64_t n, int64_t m) {
    constexpr double kUnreachable = std::numeric_limits<double>::infinity();
    const auto width = static_cast<size_t>(m) + 1;
    std::vector<double> above(width, kUnreachable), row(width);
    std::vector<Step> steps(static_cast<size_t>(n) * static_cast<size_t>(m));
    above[0] = 0;
    for (int64_t i = 0; i < n; ++i) {
        row[0] = kUnreachable;
        for (int64_t j = 0; j < m; ++j) {
            const auto at = static_cast<size_t>(j);
            const double both = above[at], text = above[at + 1], time = row[at];
            const Step step = both < text && both < time   ? Step::both
                              : text < both && text < time ? Step::text
                                                           : Step::time;
            const double before = step == Step::both ? both : step == Step::text ? text : time;
            row[at + 1] = cost[i * m + j] + before;
            steps[static_cast<size_t>(i * m + j)] = step;
        }
        std::swap(above, row);
    }

    AlignmentPath path;
    int64_t i = n - 1, j = m - 1;
    while (i >= 0 && j >= 0) {
        path.text_indices.push_back(i);
        path.time_indices.push_back(j);
        if (i == 0 && j == 0) break;
        const Step step = i == 0 ? Step::time : j == 0 ? Step::text : steps[static_cast<size_t>(i * m + j)];
        if (step != Step::time) --i;
        if (step != Step::text) --j;
    }
    std::reverse(path.text_indices.begin(), path.text_indices.end());
    std::reverse(path.time_indices.begin(), path.time_indices.end());
    return path;
}

void median_filter(const float* x, int64_t n, int64_t width, float* out) {
    const int64_t margin = width / 2;
    if (n <= margin) {
        std::copy(x, x + n, out);
        return;
    }
    const std::vector<float> padded = reflected(x, n, margin);
    if (width == 7) {
        for (int64_t i = 0; i < n; ++i) out[i] = median_of_7(padded.data() + i);
        return;
    }
    std::vector<float> scratch;
    for (int64_t i = 0; i < n; ++i) out[i] = median_of(padded.data() + i, width, scratch);
}

std::vector<float> attention_matrix(float* scores, int64_t n_heads, int64_t n_tokens, int64_t n_ctx, int64_t n_columns,
                                    int64_t first_row, int64_t end_row, const RowMath& math) {
    std::vector<float> matrix(static_cast<size_t>((end_row - first_row) * n_columns));
    std::vector<float> filtered(static_cast<size_t>(n_columns));
    for (int64_t head = 0; head < n_heads; ++head) {
        float* rows = scores + head * n_tokens * n_ctx;
        for (int64_t t = 0; t < n_tokens; ++t) math.softmax(rows + t * n_ctx, n_columns);
        standardise(rows, n_tokens, n_ctx, n_columns);
        for (int64_t t = first_row; t < end_row; ++t) {
            median_filter(rows + t * n_ctx, n_columns, kMedianWidth, filtered.data());
            float* to = matrix.data() + (t - first_row) * n_columns;
            for (int64_t c = 0; c < n_columns; ++c) to[c] += filtered[static_cast<size_t>(c)];
        }
    }
    for (float& value : matrix) value /= static_cast<float>(n_heads);
    return matrix;
}

AlignNeeds align_needs(int64_t n_windows, int64_t n_tokens, int64_t n_heads, int64_t n_ctx, int64_t n_vocab) {
    const auto heads = static_cast<size_t>(n_heads);
    const size_t of_window = n_scores(heads, n_tokens, n_ctx);
    AlignNeeds needs;
    needs.n_together = std::min(n_windows, static_cast<int64_t>((kMostScores + of_window - 1) / of_window));
    needs.n_pass_tokens = std::min(kPieceTokens, n_tokens);
    const auto together = static_cast<size_t>(needs.n_together);
    const size_t pass_bytes = together * n_scores(heads, needs.n_pass_tokens, n_ctx) * sizeof(float) +
                              logit_bytes(needs.n_together * needs.n_pass_tokens, n_vocab);
    needs.n_bytes = together * of_window * sizeof(float) + std::max(pass_bytes, path_bytes(n_tokens, n_ctx));
    return needs;
}

std::vector<AlignResult> align_windows(LanguageModel& model, const std::vector<AlignRequest>& requests,
                                       const AlignOptions& options, const std::function<bool()>& should_stop,
                                       DecodeStages& stages) {
    check(options, model.n_vocab());
    if (requests.size() != model.n_windows()) {
        throw Error(Status::argument, "the number of requests is " + std::to_string(requests.size()) +
                                          "; it has to be that of the windows, " + std::to_string(model.n_windows()));
    }
    for (size_t i = 0; i < requests.size(); ++i) check(requests[i], i, options, model);

    std::vector<AlignResult> results(requests.size());
    Task task(model, options, should_stop, stages);
    for (size_t next = 0; next < requests.size();) {
        std::vector<Window> windows;
        size_t n_floats = 0;
        for (; next < requests.size() && n_floats < kMostScores; ++next) {
            if (requests[next].text_tokens.empty()) {
                results[next].is_complete = true;
                continue;
            }
            windows.push_back(task.begin(next, requests[next], results[next]));
            n_floats += windows.back().scores.size();
        }
        if (!task.run(windows)) break;
    }
    return results;
}

}  // namespace whisperq::decoding
